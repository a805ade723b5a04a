"""One target's part of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.record.designs import DesignRecord, Programming
from harness.record.figure import Network, Source
from harness.record.networks import Loading, LoweredRecord, OutputsRecord, QuantizedRecord, SamplesRecord, Shipment
from harness.record.timing import BlockRecord, IdleWindow, SteadyClock, StoppingRule, TelemetryRecord


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
