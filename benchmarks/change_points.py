"""Nightly's change points replayed on synthetic histories with known truth, night by night as `quantrig nightly` does.

Noise of a night: the standard error of the run (0.5 to 0.75 %, known from its interval) and what moves from night to
night (0.5 %, unknown to the search): independent, or AR(1) with correlation 0.5. Penalty, level and priors
(`harness.history.steps`, `harness.history.noise`) were chosen on TUNING_SEED; what is published comes from SEED.

The peer is the last night's t test against up to 64 nights before it at the .99 boundary, the shape of a continuous
benchmarking service's threshold, on the very same nights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.figures import Effort, Goal, Result, Row
from harness.history.alarms import RAISED_WITHIN, SAME_STEP_NIGHTS
from harness.history.changes import tell
from harness.history.series import RATIOS, Key, Point, Series
from harness.history.steps import find_steps
from harness.judge.statistics import wilson
from harness.record.figure import Source

TUNING_SEED, SEED = 1, 20261121
SERIES, NIGHTS = 200, 60
STEP = 0.03
#: Nights before the first one that is judged: of four, two may lie on either side of a step.
FIRST_JUDGED = 4
#: A step is taken for the true one when it lies so near and goes the same way.
NEAR = 2
PEER = "last night against the 64 before, t test at .99"

Finder = Callable[[NDArray[np.float64], NDArray[np.float64]], list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class World:
    """A kind of noise.

    Args:
        correlation: of what moves from night to night.
        scale: of all noise.
        bad_night: probability that a lone night is 5 % off.
        step: size of the step on a logarithm; 0: nothing ever changes.
    """

    name: str
    correlation: float = 0.0
    scale: float = 1.0
    bad_night: float = 0.0
    step: float = STEP


@dataclass(slots=True)
class Tally:
    """What was counted."""

    series: int = 0
    found: int = 0
    nights: int = 0
    false_alarms: int = 0
    delays: list[int] = field(default_factory=list)


WORLDS = (
    World("independent nights"),
    World("AR(1) nights, correlation .5", correlation=0.5),
    World("no step, independent nights", step=0.0),
    World("no step, AR(1) nights", correlation=0.5, step=0.0),
    World("no step, one night in 30 is 5 % off", bad_night=1 / 30, step=0.0),
    World("a board twice as noisy", scale=2.0),
)


def run(effort: Effort) -> Result:
    count = 12 if effort.is_quick else SERIES
    seed = TUNING_SEED if effort.is_quick else SEED  # a try-out must not look at what is published
    rows: list[Row] = []
    with ProcessPoolExecutor(2) as pool:
        jobs = [(world, peer, first, min(first + 25, count), seed) for world in WORLDS for peer in (False, True)
                for first in range(0, count, 25)]  # fmt: skip
        parts = list(pool.map(_replay, *zip(*jobs, strict=True)))
        attributed = list(pool.map(_attribute, range(count), chunksize=10))
    for index, world in enumerate(WORLDS):
        for peer in (False, True):
            tally = _sum([t for (w, p, *_), t in zip(jobs, parts, strict=True) if w is world and p is peer])
            # the two goals were set for the noise of the first two worlds; the others show where they end
            rows += _rows(world, tally, peer=peer, promised=index < 2 and not peer)
    return Result((*rows, *_attribution_rows(attributed)))


def history(world: World, number: int, seed: int = SEED) -> tuple[NDArray[np.float64], NDArray[np.float64], int, float]:
    """One series: logarithms, standard errors, where its step is, and the step."""
    rng = np.random.default_rng([seed, number])
    at = int(rng.integers(12, NIGHTS - 8))
    step = world.step * float(rng.choice([-1, 1]))
    errors = rng.uniform(0.005, 0.0075, NIGHTS) * world.scale
    moves = rng.normal(scale=0.005 * world.scale, size=NIGHTS)
    for night in range(1, NIGHTS):
        moves[night] = world.correlation * moves[night - 1] + math.sqrt(1 - world.correlation**2) * moves[night]
    values = math.log(3.2) + moves + rng.normal(size=NIGHTS) * errors
    values[at:] += step
    values += np.where(rng.random(NIGHTS) < world.bad_night, 0.05 * rng.choice([-1, 1], NIGHTS), 0.0)
    return values, errors, at, step


def _replay(world: World, peer: bool, first: int, stop: int, seed: int) -> Tally:
    tally = Tally()
    for number in range(first, stop):
        values, errors, at, step = history(world, number, seed)
        tally.series += 1
        (_by_threshold if peer else _by_search)(values, errors, at, step, tally)
    return tally


def _by_search(values: NDArray[np.float64], errors: NDArray[np.float64], at: int, step: float, tally: Tally) -> None:
    """Every night anew, an alarm once, as `harness.history.alarms` does."""
    alarms: list[tuple[int, bool]] = []
    hit = False
    for seen in range(FIRST_JUDGED, NIGHTS + 1):
        tally.nights += 1
        found = find_steps(values[:seen], errors[:seen], least_change=RATIOS["latency_p50_ms"])
        for one in found.steps:
            up = one.change > 0
            if one.index < seen - RAISED_WITHIN:
                continue
            true = step != 0 and abs(one.index - at) <= NEAR and up == (step > 0) and seen > at
            if true and not hit:
                hit = True
                tally.found += seen - at <= 2
                tally.delays.append(seen - at)
            known = any(abs(one.index - place) <= SAME_STEP_NIGHTS and up == rose for place, rose in alarms)
            tally.false_alarms += not true and not known
            alarms.append((one.index, up))


def _by_threshold(values: NDArray[np.float64], errors: NDArray[np.float64], at: int, step: float, tally: Tally) -> None:  # noqa: ARG001
    """The peer knows no errors; flagged nights in a row are one alarm."""
    before = 0
    hit = False
    for seen in range(FIRST_JUDGED, NIGHTS + 1):
        tally.nights += 1
        past = values[max(seen - 65, 0) : seen - 1]
        spread = float(past.std(ddof=1)) * math.sqrt(1 + 1 / len(past))
        off = float(values[seen - 1] - past.mean()) / spread
        flagged = int(math.copysign(1, off)) if abs(off) > stats.t.ppf(0.99, len(past) - 1) else 0
        if flagged and flagged != before:
            true = step != 0 and seen > at and flagged == math.copysign(1, step)
            if true and not hit:
                hit = True
                tally.found += seen - at <= 2
                tally.delays.append(seen - at)
            tally.false_alarms += not true
        before = flagged


def _sum(parts: Sequence[Tally]) -> Tally:
    total = Tally()
    for one in parts:
        total.series += one.series
        total.found += one.found
        total.nights += one.nights
        total.false_alarms += one.false_alarms
        total.delays += one.delays
    return total


def _rows(world: World, tally: Tally, *, peer: bool, promised: bool) -> list[Row]:
    who = PEER if peer else "change points"
    rows = []
    if world.step:
        ends = wilson(tally.found, tally.series)
        late = sum(delay > 2 for delay in tally.delays)
        rows.append(
            Row(
                f"{who}, {world.name}: 3 % steps found within 2 nights", "%", (100 * tally.found / tally.series,),
                goal=Goal("ours", least=90) if promised else None,
                note=f"{tally.found} of {tally.series}, 95 % interval {100 * ends.low:.1f}-{100 * ends.high:.1f}; "
                f"{late} later, {tally.series - len(tally.delays)} never",
            )
        )  # fmt: skip
    low, high = _poisson(tally.false_alarms)
    rows.append(
        Row(
            f"{who}, {world.name}: false alarms in 100 nights of a series", "alarms",
            (100 * tally.false_alarms / tally.nights,), goal=Goal("ours", most=1) if promised else None,
            note=f"{tally.false_alarms} in {tally.nights:,} nights, 95 % interval "
            f"{100 * low / tally.nights:.2f}-{100 * high / tally.nights:.2f}",
        )
    )  # fmt: skip
    return rows


def _poisson(count: int) -> tuple[float, float]:
    """Exact 95 % interval of a Poisson mean (Garwood 1936)."""
    low = float(stats.chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low, float(stats.chi2.ppf(0.975, 2 * count + 2)) / 2


def _attribute(number: int) -> dict[str, bool]:
    """A series with a machine change that costs 3 %, another that costs nothing, and a code change that costs 3 %."""
    rng = np.random.default_rng([SEED, 7, number])
    values, errors, _, _ = history(World("quiet", step=0.0), number + 100_000)
    places = 12 + 16 * rng.permutation(3) + rng.integers(0, 8, 3)
    machine, harmless, code = (int(place) for place in places)
    signs = rng.choice([-1, 1], 2)
    values[machine:] += STEP * signs[0]
    values[code:] += STEP * signs[1]
    points = []
    for night in range(NIGHTS):
        around = {
            "runtime.onnxruntime": "1.23.0" if night >= machine else "1.22.0",
            "machine.os": "Linux 6.6" if night >= harmless else "Linux 6.1",
            "code.int8 network": "b" * 64 if night >= code else "a" * 64,
        }
        half = 2.093 * errors[night]
        low, value, high = (math.exp(values[night] + shift) for shift in (-half, 0, half))
        points.append(Point(str(night), str(night), f"{night:04d}", value, low, high, 20, around))
    changes = tell(
        Series(Key("job", "board", "Quantized", "latency_p50_ms"), "ms", Source.MEASURED, tuple(points))
    ).changes
    by_machine = [one for one in changes if one.index == machine]
    by_code = [one for one in changes if abs(one.index - code) <= NEAR]
    return {
        "machine": any(one.of_machine and not one.mixed for one in by_machine),
        "harmless": any(one.index == harmless for one in changes),
        "code found": bool(by_code),
        "code": any(one.causes and not one.of_machine for one in by_code),
        "code blamed on machine": any(one.of_machine for one in by_code),
    }


def _attribution_rows(found: Sequence[dict[str, bool]]) -> list[Row]:
    def row(figure: str, name: str, of: int, goal: Goal | None = None) -> Row:
        hits = sum(one[name] for one in found)
        ends = wilson(hits, max(of, 1))
        note = f"{hits} of {of}, 95 % interval {100 * ends.low:.1f}-{100 * ends.high:.1f}"
        return Row(f"change points, causes: {figure}", "%", (100 * hits / max(of, 1),), goal=goal, note=note)

    seen = sum(one["code found"] for one in found)
    return [
        row("3 % steps of a new runtime found and given to the machine", "machine", len(found)),
        row("a new kernel without effect called a step", "harmless", len(found)),
        row("found 3 % steps of a new int8 network given to the code", "code", seen),
        row("of those, blamed on the machine", "code blamed on machine", seen),
    ]
