"""What a board says of itself and of its work: plain frozen values, already checked by `validate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """One way the board can execute a network; `version` is "" and `problem` says why when it cannot."""

    name: str
    version: str
    providers: tuple[str, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A network resident on the board."""

    network_id: str
    digest: str
    runtime: str
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What the agent will and will not do; the field meanings are those of `Policy` in agent.proto."""

    allow_loops: bool
    max_artifact_bytes: int
    max_tensor_bytes: int
    child_memory_bytes: int
    memory_limit_kind: str
    prepare_timeout_s: float
    batch_timeout_s: float
    max_loaded_networks: int


@dataclass(frozen=True, slots=True)
class BoardInfo:
    """The board's own description (`BoardDescription` in agent.proto); a size it cannot know is None."""

    agent_version: str
    protocol_version: int
    board: str
    emulated: bool
    model: str
    hostname: str
    machine_id: str
    boot_id: str
    os: str
    architecture: str
    python_version: str
    cpu_model: str
    cpu_count: int | None
    cpu_features: tuple[str, ...]
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    storage_quota_bytes: int | None
    storage_used_bytes: int
    storage_free_bytes: int | None
    runtimes: tuple[RuntimeInfo, ...]
    loaded: tuple[LoadedInfo, ...]
    policy: PolicyInfo
    details: Mapping[str, str] = field(default_factory=dict)  # what the family adds (docs/telemetry.md)

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON values, for run.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Shipped:
    """One file on its way to the board; `sent_bytes` counts the payload of this call, 0 when `skipped`."""

    digest: str
    size_bytes: int
    sent_bytes: int
    skipped: bool


@dataclass(frozen=True, slots=True)
class Programmed:
    """What a board's logic held before a design and a network were programmed into it.

    Args:
        design_loaded: the same design: programming it was skipped.
        network_loaded: the same network too.
        boot_id: of the device, "" when unknown.
        device: its fingerprint, sha256.
    """

    design_loaded: bool
    network_loaded: bool
    boot_id: str
    device: str


@dataclass(frozen=True, slots=True)
class SessionChoice:
    """How the board shall execute a network; field meanings as `SessionOptions` in agent.proto.

    Args:
        runtime: "" is the board's default.
        intra_op_threads: 0 is the runtime's own choice.
        graph_optimization: "", "disable", "basic", "extended" or "all".
        disabled_optimizers: names of graph optimizers to leave out.
        precise_x86_int8: no 16-bit saturation on x86 without VNNI (slower).
        providers: execution providers in order; empty is the runtime's default.
    """

    runtime: str = ""
    intra_op_threads: int = 0
    graph_optimization: str = ""
    disabled_optimizers: tuple[str, ...] = ()
    precise_x86_int8: bool = False
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedPermit:
    """The lab's word that a board may load a compiled network: a statement, as JSON, and its Ed25519 signature."""

    statement: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A declared input or output; -1 in `shape` is a free dimension, `dtype` a numpy name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AssignedNodes:
    """What one provider runs of a network: how many nodes, of which operators, and the names of those that have one."""

    provider: str
    count: int
    operators: Mapping[str, int]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreparedNetwork:
    """A network ready in its own process on the board; durations are None where the phase does not exist.

    `assigned` is empty where the board's runtime (or its agent, of an older version) cannot tell; `settings` are what
    the session was given, by the runtime's own names.
    """

    network_id: str
    digest: str
    already_loaded: bool
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    start_ms: float
    check_ms: float
    load_ms: float
    compile_ms: float | None
    runtime: str
    runtime_version: str
    providers: tuple[str, ...]
    resident_bytes: int
    assigned: tuple[AssignedNodes, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the network came to a steady latency; `steady` is False when the cap ended it."""

    steady: bool
    iterations: int
    duration_s: float
    first_ms: float


@dataclass(frozen=True, slots=True)
class TimedBlock:
    """One block as the board timed it, every raw sample in order (`Block` in agent.proto)."""

    latency_ns: tuple[int, ...]
    started_unix_s: float
    duration_s: float
    clock: str
    clock_resolution_ns: float
    batch_size: int
    cpu_time_s: float
    peak_memory_bytes: int
    clock_tick_ns: float | None = None  # smallest step seen of that clock; None of an older agent


@dataclass(frozen=True, slots=True)
class TelemetrySample:
    """One reading of the board's sensors; what is unknown or impossible is None or left out of the map."""

    unix_s: float
    ram_used_mb: float | None
    ram_total_mb: float | None
    cpu_percent: tuple[float | None, ...]  # None: that core is off
    gpu_percent: float | None
    temperature_c: Mapping[str, float]
    power_mw: Mapping[str, float]
    total_power_mw: float | None
    total_power_rail: str | None
    throttled: bool | None
    clock_mhz: float | None
    throttled_by: tuple[str, ...] = ()  # one reason each while `throttled`
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
