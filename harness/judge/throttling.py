"""Which pairs of blocks were timed on a board that slowed itself down, from the telemetry that ran beside them.

Both halves of a pair are rejected together, or the pair's ratio would be that of two different boards. The board's
agent says what its family tells (over-current counters, firmware bits, clock reasons, trip points, changes of the power
mode; docs/telemetry.md); whether a clock fell below the run's own only the run can know.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence

from harness.judge.rejected import LEAST_CLEAN, rejected_pairs
from harness.record.figure import Network
from harness.record.timing import BlockRecord, SteadyClock, TelemetryRecord

#: A clock below this share of the run's own steady clock rejects the pair (docs/results.md, 'Rejected pairs').
CLOCK_SHARE = 0.97

#: A clock whose middle 80 % of readings span more than this share of their median is not steady: nothing to fall from.
_STEADY_SPREAD = 0.03
_LEAST_READINGS = 4

#: One reading may fall on a block's edge; a verdict takes two.
_LEAST_IN_BLOCK = 2

#: From so many rejected pairs on, and this share of all, the target counts as throttled.
THROTTLED_PAIRS = 5
THROTTLED_SHARE = 0.20

#: A rejected pair's pause: this long after the first one in a row, then twice as long each time, up to the total.
COOL_DOWN_FIRST_S = 0.25
COOL_DOWN_TOTAL_S = 120.0

_DIGITS = re.compile(r"\d[\d.,]*")


def clock_mhz(point: TelemetryRecord, name: str) -> float | None:
    """One clock of a sample, by its key of `clocks_mhz`; "" is the unit that the board says runs networks."""
    value = point.clock_mhz if not name else point.clocks_mhz.get(name)
    return value if value is not None and math.isfinite(value) and value > 0 else None


def clock_name(points: Sequence[TelemetryRecord], *, on_cpu: bool) -> str:
    """Which clock to watch for a network: the cores' where its providers run on them, else the board's own choice.

    Args:
        points: samples of this board.
        on_cpu: every provider of the session is one of the CPU.
    """
    if on_cpu:
        for name in ("arm", "cpu"):
            if any(name in point.clocks_mhz for point in points):
                return name
    return ""


def steady_clock(points: Sequence[TelemetryRecord], name: str) -> SteadyClock | None:
    """The clock that a warm-up settled at: the median of the second half of its samples.

    None where the board does not tell it, with fewer than four readings, or where the readings' middle 80 % span more
    than 3 %: a clock that wanders by itself (a governor on a desktop machine) says nothing of throttling.
    """
    told = [mhz for point in points if (mhz := clock_mhz(point, name)) is not None]
    late = sorted(told[len(told) // 2 :])
    if len(late) < _LEAST_READINGS:
        return None
    tenth = len(late) // 10
    middle = late[tenth : len(late) - tenth]
    median = statistics.median(late)
    return SteadyClock(name, median) if middle[-1] - middle[0] <= _STEADY_SPREAD * median else None


def pair_reasons(
    halves: Sequence[BlockRecord],
    points: Sequence[TelemetryRecord],
    steady: Mapping[Network, SteadyClock],
) -> tuple[str, ...]:
    """Why the pair must not count; empty when it is clean.

    A sample's verdict is of the time since the sample before it (counters, sticky bits) up to its own moment: it speaks
    against a block that this stretch touches. A clock is of one moment: the median of those inside a block counts.

    Args:
        halves: the blocks of one pair.
        points: samples from the last one before the pair to the first one after it, by the board's clock.
        steady: the clock of each network's warm-up.
    """
    ordered = sorted((p for p in points if math.isfinite(p.unix_s)), key=lambda p: p.unix_s)
    found: dict[str, str] = {}
    for reason in (*_told(halves, ordered), *_slow_clocks(halves, ordered, steady)):
        found.setdefault(kind_of(reason), reason)
    return tuple(found.values())


def too_many_rejected(rejected: int, pairs: int) -> bool:
    """Whether a target with so many rejected of all `pairs` counts as throttled: a fifth of them, and at least five."""
    return rejected >= THROTTLED_PAIRS and rejected >= THROTTLED_SHARE * pairs


def throttled(blocks: Sequence[BlockRecord]) -> str | None:
    """Why a target with these blocks counts as throttled, with the remedy; None where it does not.

    A fifth of its pairs were rejected and at least five, or so many that fewer than two are left.
    """
    rejected = rejected_pairs(blocks)
    pairs = len({block.pair for block in blocks})
    if not too_many_rejected(len(rejected), pairs) and not (rejected and pairs - len(rejected) < LEAST_CLEAN):
        return None
    return (
        f"{len(rejected)} of {pairs} pairs of blocks were rejected ({most_frequent(rejected)}); cool the board, lock "
        "its clocks below what it can hold, or check its supply, then start a new run"
    )


def most_frequent(rejected: Mapping[int, tuple[str, ...]]) -> str:
    """The reason that most rejected pairs share, in the words of the first one; "" when none was rejected.

    Args:
        rejected: of `rejected_pairs`.
    """
    kinds: dict[str, list[str]] = {}
    for reasons in rejected.values():
        for reason in reasons:
            kinds.setdefault(kind_of(reason), []).append(reason)
    return max(kinds.values(), key=len)[0] if kinds else ""


def kind_of(reason: str) -> str:
    """A reason without its figures: a temperature that moves is one kind of reason, not ten."""
    return _DIGITS.sub("#", reason)


def cool_down_s(in_a_row: int, waited_s: float) -> float:
    """How long to rest after the `in_a_row`-th rejected pair in a row, when `waited_s` were spent resting before."""
    return max(min(COOL_DOWN_FIRST_S * 2.0 ** (in_a_row - 1), COOL_DOWN_TOTAL_S - waited_s), 0.0)


def _told(halves: Sequence[BlockRecord], ordered: Sequence[TelemetryRecord]) -> Iterator[str]:
    """What the board's own samples say against a block."""
    before_s: float | None = None
    for point in ordered:
        since_s = point.unix_s if before_s is None else before_s
        before_s = point.unix_s
        touched = any(
            since_s < block.started_unix_s + block.duration_s and block.started_unix_s <= point.unix_s
            for block in halves
        )
        if point.throttled and touched:
            yield from point.throttled_by or ("the board says that it is throttled",)


def _slow_clocks(
    halves: Sequence[BlockRecord], ordered: Sequence[TelemetryRecord], steady: Mapping[Network, SteadyClock]
) -> Iterator[str]:
    """Blocks whose clock was too low; of blocks too short for two readings, the pair as a whole."""
    shares: list[float] = []
    judged = False
    for block in halves:
        reference = steady.get(block.network)
        if reference is None:
            continue
        inside = [
            mhz / reference.mhz
            for point in ordered
            if block.started_unix_s <= point.unix_s <= block.started_unix_s + block.duration_s
            and (mhz := clock_mhz(point, reference.name)) is not None
        ]
        shares += inside
        if len(inside) >= _LEAST_IN_BLOCK:
            judged = True
            yield from _slow(statistics.median(inside), reference, block.network.value)
    if not judged and len(shares) >= _LEAST_IN_BLOCK:
        reference = next(iter(steady.values()))
        yield from _slow(statistics.median(shares), reference, "the pair")


def _slow(share: float, reference: SteadyClock, of_what: str) -> Iterator[str]:
    if share < CLOCK_SHARE:
        name = f"{reference.name} clock" if reference.name else "clock"
        yield (
            f"{name} at {share * reference.mhz:.0f} MHz in {of_what}, "
            f"{100 * share:.0f} % of the run's {reference.mhz:.0f} MHz"
        )
