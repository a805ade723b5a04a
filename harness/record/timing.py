"""What was timed, and what the board told of itself meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.record.figure import Network


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """How a target's timing was meant to end; kept with its blocks, so that a resumed run goes on by the same rule.

    Args:
        first_stage: n0, rounds that only tell the spread; at least 2.
        goal: half the width that the 95 % interval of ln(ratio) shall have.
        most_rounds: the cap.
        budget_s: what `--budget` allowed, warm-up included; None without one.
    """

    first_stage: int
    goal: float
    most_rounds: int
    budget_s: float | None = None


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
