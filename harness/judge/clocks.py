"""The clock that timed a board's blocks: what it is, how fine it is, and whether it was fine enough."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from harness.record.timing import BlockRecord

#: A median of fewer ticks than this is a figure about the clock: each latency is wrong by up to a tick, 10 % of it.
LEAST_TICKS = 10


def tick_ns(block: BlockRecord) -> float | None:
    """The step of the block's clock: the larger of what it claims and what was seen; None when neither is told."""
    told = [value for value in (block.clock_resolution_ns, block.clock_tick_ns) if value]
    return max(told, default=None)


def clock_too_coarse(block: BlockRecord) -> str | None:
    """Why the block's latencies mean nothing on this clock, with the remedy; None where the clock is fine enough."""
    step_ns = tick_ns(block)
    median_ns = statistics.median(block.latency_ns)
    if step_ns is None or median_ns >= LEAST_TICKS * step_ns:
        return None
    return (
        f"an inference of {block.network} takes {median_ns / 1e3:.3g} µs, fewer than {LEAST_TICKS} steps of the "
        f"board's clock ({step_ns / 1e3:.3g} µs): give the job a larger batch"
    )


def describe_clock(blocks: Sequence[BlockRecord]) -> str:
    """One line for a target: which clock, its resolution and its step, and what share of a latency that is.

    "" where no block tells its clock.
    """
    told = [block for block in blocks if block.clock]
    if not told:
        return ""
    names = " / ".join(dict.fromkeys(block.clock for block in told))
    parts = []
    if resolutions := [value for block in told if (value := block.clock_resolution_ns)]:
        parts.append(f"resolution {max(resolutions):.3g} ns")
    if ticks := [value for block in told if (value := block.clock_tick_ns)]:
        shares = [step / statistics.median(block.latency_ns) for block in told if (step := tick_ns(block))]
        parts.append(
            f"smallest step seen {max(ticks):.3g} ns, {100 * max(shares):.2g} % of the shortest median latency"
        )
    return f"timed by {names}" + "".join(f", {part}" for part in parts)
