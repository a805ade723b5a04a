"""What a run leaves behind: the value that every report is built from, and the content of run.json."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.judge.figure import Figure, Network, Source
from harness.judge.gates_values import GateResult
from harness.judge.stopping import StoppingRule

#: Version of run.json. Raised when a field changes its meaning; adding a field does not raise it.
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shipment:
    """One artifact on its way to one board."""

    network: Network
    digest: str
    size_bytes: int
    sent_bytes: int  # 0 when the board held it already
    skipped: bool  # already on the board


@dataclass(frozen=True, slots=True)
class ProviderShare:
    """What one provider of a runtime ran of a network: how many nodes, of which operators, their names where known."""

    provider: str
    count: int
    operators: dict[str, int]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """How long a network took to become ready on a board, phase by phase, ms; None where the phase does not exist."""

    network: Network
    start_ms: float
    check_ms: float
    load_ms: float
    compile_ms: float | None
    already_loaded: bool
    runtime: str
    runtime_version: str
    providers: tuple[str, ...]
    warm_up_iterations: int | None = None
    warm_up_s: float | None = None
    steady: bool | None = None
    first_ms: float | None = None
    assigned: tuple[ProviderShare, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)  # of the session, by the runtime's own names


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One timed block as the board returned it.

    Args:
        network: which network ran.
        pair: index of the float/int8 pair it belongs to (ABBA: pair 0 runs F I, pair 1 runs I F, …).
        latency_ns: every raw sample, in order.
        started_unix_s: wall clock of the board.
        duration_s: monotonic.
        batch_size: samples per iteration.
        cpu_time_s: of the network's process during the block.
        peak_memory_bytes: high-water mark of that process.
        disturbed: why its pair is rejected, a reason each; both halves of a rejected pair carry them. Empty: clean.
        watched: whether telemetry streamed while it ran; None in records of older versions.
        clock: the board's clock that timed it, by its own name; "" when unknown.
        clock_resolution_ns: what that clock claims; None when unknown.
        clock_tick_ns: the smallest step that was seen of it on that board; None when unknown.
    """

    network: Network
    pair: int
    latency_ns: tuple[int, ...]
    started_unix_s: float
    duration_s: float
    batch_size: int
    cpu_time_s: float
    peak_memory_bytes: int
    disturbed: tuple[str, ...] = ()
    watched: bool | None = None
    clock: str = ""
    clock_resolution_ns: float | None = None
    clock_tick_ns: float | None = None


@dataclass(frozen=True, slots=True)
class IdleWindow:
    """A stretch of time in which the board ran nothing of ours, for the power it draws idle.

    Args:
        when: "before" the timed blocks, or "after" them.
        started_unix_s: wall clock of the board.
        duration_s: its length.
    """

    when: str
    started_unix_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class SteadyClock:
    """The clock at which a network's warm-up settled: what its blocks are held against.

    Args:
        name: key of `TelemetryRecord.clocks_mhz`; "" stands for `TelemetryRecord.clock_mhz`.
        mhz: its median.
    """

    name: str
    mhz: float


@dataclass(frozen=True, slots=True)
class TelemetryRecord:
    """One telemetry sample; None or absent where the board does not say."""

    unix_s: float
    temperature_c: dict[str, float]
    power_mw: dict[str, float]  # instantaneous, by rail
    total_power_mw: float | None
    total_power_rail: str | None
    throttled: bool | None
    clock_mhz: float | None  # of the unit that runs the network
    ram_used_mb: float | None
    throttled_by: tuple[str, ...] = ()  # one reason each while `throttled`: of the time since the sample before
    clocks_mhz: dict[str, float] = field(default_factory=dict)  # every clock the board tells


@dataclass(frozen=True, slots=True)
class LayerSqnr:
    """How far one layer's result in the int8 network is from the float network's, everything before it included.

    Args:
        layer: its name in the float network.
        op_type: ONNX operator.
        sqnr_db: None where both are equal, or the float result is zero throughout.
    """

    layer: str
    op_type: str
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class QuantizedRecord:
    """What the rule book of an environment made of the network."""

    environment: str
    digest: str
    method: str
    quantized_layers: int
    kept_float: tuple[tuple[str, str], ...]  # (layer, reason)
    notes: tuple[str, ...]
    disabled_optimizers: tuple[str, ...] = ()  # graph optimizers that must not touch it
    learnable_bytes: int | None = None  # weights and biases, counted from their dtypes
    layers: tuple[LayerSqnr, ...] = ()  # in the network's order; empty where they could not be told apart
    layers_samples: int = 0  # how many calibration samples `layers` rests on


@dataclass(frozen=True, slots=True)
class LoweredRecord:
    """The graph that a stand-in ran in place of the int8 network: the board's own arithmetic (docs/emulation.md).

    Args:
        arithmetic: dpu, mathworks, host or gpu.
        claim: the sentence that goes with every figure of it.
        digest: of the lowered network; that of the int8 one stands in `QuantizedRecord`.
        hardware_layers: how many layers were computed in the board's integers.
        software: one line for each layer that was computed in float, with the reason.
        disabled_optimizers: graph optimizers that must not touch it.
    """

    arithmetic: str
    claim: str
    digest: str
    hardware_layers: int
    software: tuple[str, ...]
    disabled_optimizers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DesignRow:
    """One figure that a model or a published table gives of a network on a design; None with the reason in `note`."""

    metric: str
    value: float | None
    unit: str
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class DesignRecord:
    """One network on one design of an FPGA's logic, without the board: what models and tables say.

    Args:
        network: which of the two.
        design: the bitstream or processor with its clock, as a table heads it; "" where the network has none.
        digest: sha256 of the design's description; "" where there is none.
        rows: its figures.
        note: how far the model is from published figures, for beneath a table; "" without a model.
        compile_log: layers in hardware and software, groups and memory map, line by line.
        remarks: what a reader must know of these figures, a sentence each.
    """

    network: Network
    design: str
    digest: str
    rows: tuple[DesignRow, ...] = ()
    note: str = ""
    compile_log: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Programming:
    """A design and a network on their way into a board's logic.

    Args:
        network: which of the two.
        design: the bitstream or processor.
        design_digest: of its description.
        network_digest: of the network as it was sent.
        boot_id: of the device, "" when unknown.
        device: fingerprint of the device.
        design_skipped: the same design was loaded already.
        network_skipped: so was the same network.
    """

    network: Network
    design: str
    design_digest: str
    network_digest: str
    boot_id: str
    device: str
    design_skipped: bool
    network_skipped: bool


@dataclass(frozen=True, slots=True)
class SamplesRecord:
    """What each sample contributed to the metrics of one network, kept in a file (harness.judge.samples).

    Args:
        network: which of the two.
        path: relative to the run's folder, `samples/<target>.<network>.npz`.
        digest: sha256 of the file.
        metrics: names of the job's metrics, in its order.
        without_rows: those of them that are one number over the whole set and cannot be recomputed from the file.
    """

    network: Network
    path: str
    digest: str
    metrics: tuple[str, ...] = ()
    without_rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputsRecord:
    """Everything that one network put out on one target, as one number to compare boards and runs by.

    Args:
        network: which of the two.
        digest: sha256 over names, types, shapes and values of all outputs in the order of the samples; equal exactly
            where every bit is. How the samples were cut into batches and chunks is not in it.
        samples: how many.
        source: `measured` on the board, or `emulated`.
    """

    network: Network
    digest: str
    samples: int
    source: Source


@dataclass(frozen=True, slots=True)
class RecoveryStep:
    """One rung of the ladder that brings a lost board back.

    Args:
        name: reconnect, restart agent, reboot, power cycle, watch console, quarantine.
        began_unix_s: when it began.
        seconds: how long it took.
        outcome: "done", "failed", "timed out" or "skipped".
        detail: what came of it, or why it was skipped; one line.
    """

    name: str
    began_unix_s: float
    seconds: float
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class SettingRecord:
    """One setting of a board that its target asks for while it is timed.

    Args:
        name: power_mode, lock_clocks or governor.
        asked: what for.
        before: what it was; "" where the board does not tell.
        during: what it read back as.
        after: what it was once given back; None where nobody could say.
        problem: why it was not as asked, one line; "" when it was.
    """

    name: str
    asked: str
    before: str
    during: str
    after: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """One target's part of a run.

    Args:
        status: "done", "pending" (not reached yet), or the `status` word of the BoardError that ended it.
        error: its one-line message, None when done.
        source: `measured` for a real board, `emulated` for a stand-in.
        description: the board's own description as plain JSON, None when it was never reached.
        machine: which physical machine executed it (host of an emulated target).
        notes: one line each, printed under the table.
        lowered: what a stand-in ran as the quantized network; None where the int8 network itself ran.
        designs: what is known of an FPGA without the board; empty for other targets.
        programming: of those designs.
        recovery: what was tried when the board was lost in the middle of the run.
        idle: when the board idled, before and after its blocks; empty where no rail tells its power.
        steady_clocks: the clock that warm-up settled at, by network; empty where it did not or is not told.
        stopping: by which rule its timing ends; None in records of older versions and where nothing is timed.
        entry: of one setting of a sweep, the entry of the lab file; "" where that is the name.
        tags: of the entry in targets.yaml; gates may hold on some only.
        settings: of the board while it was timed; empty where the target asks for none.
        samples: the files that its metrics can be recomputed from.
        outputs: digests of what its networks put out; empty in records of older versions.
    """

    name: str
    board: str
    environment: str
    via: str
    source: Source
    status: str
    error: str | None = None
    description: dict[str, object] | None = None
    quantized: QuantizedRecord | None = None
    shipments: tuple[Shipment, ...] = ()
    loadings: tuple[Loading, ...] = ()
    blocks: tuple[BlockRecord, ...] = ()
    telemetry: tuple[TelemetryRecord, ...] = ()
    notes: tuple[str, ...] = ()
    lowered: LoweredRecord | None = None
    designs: tuple[DesignRecord, ...] = ()
    programming: tuple[Programming, ...] = ()
    recovery: tuple[RecoveryStep, ...] = ()
    idle: tuple[IdleWindow, ...] = ()
    steady_clocks: dict[Network, SteadyClock] = field(default_factory=dict)
    stopping: StoppingRule | None = None
    entry: str = ""

    @property
    def entry_name(self) -> str:
        """Its name in the lab file: the settings of a sweep are one board."""
        return self.entry or self.name

    tags: tuple[str, ...] = ()
    settings: tuple[SettingRecord, ...] = ()
    samples: tuple[SamplesRecord, ...] = ()
    outputs: tuple[OutputsRecord, ...] = ()

    def failed(self, status: str, error: str) -> TargetRecord:
        """The same target, ended by an error."""
        return replace(self, status=status, error=error)


@dataclass(frozen=True, slots=True)
class Revision:
    """Where the job's file stood in version control when the run began.

    Args:
        commit: its full name.
        branch: "" where no branch was checked out and no CI system names one.
        dirty: whether tracked files differed from the commit.
    """

    commit: str
    branch: str
    dirty: bool


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a job's own function comes from.

    Args:
        path: from the job's folder with forward slashes where it lies in there, else absolute.
        sha256: of its content when the figures were computed, lower-case hex.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A function that the job names: a metric of its own, or its postprocessing.

    Args:
        spec: "module:function".
        files: its module, modules beside the job that this imports, and where its code is if elsewhere.
    """

    spec: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A whole run.

    Args:
        run_id: [a-z0-9-]{1,64}, sortable by time.
        job: the job as plain JSON, paths resolved.
        model_digest: sha256 of the float network.
        profile: "quick", "standard" or "release".
        samples: how many samples the accuracy rests on; `calibration_samples` how many the ranges rest on.
        started: ISO 8601 with time zone.
        finished: None while it runs or when it was interrupted.
        host: the orchestrator's own environment: versions, CPU, flags.
        gates: what came of the job's gates, target by target; empty where it has none.
        revision: of the job's file; None outside a git repository and in records of older versions.
        functions: the job's own, with their sources; empty where it has none and in records of older versions.
    """

    run_id: str
    job_name: str
    job: dict[str, object]
    model_digest: str
    profile: str
    split: str
    samples: int
    calibration_samples: int
    started: str
    finished: str | None
    host: dict[str, object]
    targets: tuple[TargetRecord, ...]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    revision: Revision | None = None
    functions: tuple[FunctionRecord, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)
