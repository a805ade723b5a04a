"""Coverage of every other published interval, in data whose truth is known; errors of bounds and non-inferiority."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.figures import Goal, Row
from benchmarks.simulations.ratio import COVERS
from harness.judge.bootstrap import paired_bootstrap
from harness.judge.metrics import Rows
from harness.judge.noninferiority import non_inferiority
from harness.judge.statistics import (
    Interval,
    geometric_mean,
    mean_interval,
    quantile,
    sectioned_interval,
    tango,
    wilson,
)
from harness.judge.statistics_bootstrap import bca_geometric_mean
from harness.judge.statistics_tail import tail_bound
from harness.judge.time_rows import OPINION_ROUNDS

#: Type-I error of 2.5 % and three standard errors of 4,000 runs.
TYPE_ONE = Goal("ours", most=3.24)
Found = Callable[[np.random.Generator], tuple[Interval | None, float]]


def run(runs: int) -> list[Row]:
    """All of it; expensive ones take a tenth of `runs`."""
    few = max(runs // 8, 50)
    return [
        *(
            _row(f"Wilson, accuracy of {p:.0%}, {n} samples", runs, _wilson(p, n))
            for p, n in ((0.81, 400), (0.97, 400))
        ),
        _row("Tango, 3 % and 2 % discordant, 1,500 samples", runs, _tango(1500, 0.03, 0.02)),
        _row("Tango, 1 % and 1 % discordant, 400 samples", runs, _tango(400, 0.01, 0.01)),
        _row("t of a mean per sample, skewed (gamma), 400 samples", runs, _mean),
        *(_row(f"frames/s, geometric mean over {b} blocks", runs, _rate(b)) for b in (12, 40)),
        *(
            _row(
                f"latency p{100 * p:g}, {b} blocks of {k} dependent iterations (autocorrelation .9)",
                few,
                _section(p, b, k),
            )
            for p, b, k in (
                (0.5, 12, 300),
                (0.9, 12, 300),
                (0.95, 12, 1000),
                (0.99, 12, 3000),
                (0.5, 40, 300),
                (0.9, 40, 300),
            )
        ),
        *(_row(f"ratio of energies, {n} rounds", runs, _energy(n)) for n in (6, 20)),
        *(_row(f"BCa over {n} rounds ({_told(n)})", few, _bca(n), None) for n in (10, 20, 40)),
        _row("paired bootstrap of mIoU, 200 images, one network", few, _miou(200, difference=False)),
        _row("paired bootstrap of the difference of mIoU, 200 images", few, _miou(200, difference=True)),
        *_bounds(few),
        *_type_one(runs),
    ]


def _told(rounds: int) -> str:
    """Where a run says it: too few rounds are simulated to show why they are not told."""
    if rounds < OPINION_ROUNDS:
        return f"not told below {OPINION_ROUNDS}"
    return "second opinion in the note"


def _row(name: str, runs: int, found: Found, goal: Goal | None = COVERS) -> Row:
    rng = np.random.default_rng(20_261_121)
    covered = counted = 0
    for _ in range(runs):
        interval, truth = found(rng)
        if interval is not None:
            counted += 1
            covered += interval.low <= truth <= interval.high
    return Row(f"coverage: {name}", "%", (100 * covered / counted,), goal=goal, note=f"{counted:,} runs")


def _wilson(p: float, n: int) -> Found:
    return lambda rng: (wilson(int(rng.binomial(n, p)), n), p)


def _tango(n: int, first: float, second: float) -> Found:
    def found(rng: np.random.Generator) -> tuple[Interval, float]:
        b, c, _ = rng.multinomial(n, [first, second, 1 - first - second])
        return tango(int(b), int(c), n), first - second

    return found


def _mean(rng: np.random.Generator) -> tuple[Interval | None, float]:
    return mean_interval(rng.gamma(1.0, 2.0, 400)), 2.0


def _rate(blocks: int) -> Found:
    return lambda rng: (geometric_mean(100 * np.exp(rng.normal(0, 0.03, blocks))).interval, 100.0)


def dependent(rng: np.random.Generator, blocks: int, length: int, rho: float = 0.9) -> NDArray[np.float64]:
    """[blocks, length] latencies exp(.1 x) whose x follows an AR(1) process of unit variance."""
    series = np.empty((blocks, length))
    series[:, 0] = rng.normal(size=blocks)
    steps = np.sqrt(1 - rho**2) * rng.normal(size=(blocks, length))
    for i in range(1, length):
        series[:, i] = rho * series[:, i - 1] + steps[:, i]
    return np.asarray(np.exp(0.1 * series), np.float64)


def _truth(p: float) -> float:
    return float(np.exp(0.1 * stats.norm.ppf(p)))


def _section(p: float, blocks: int, length: int) -> Found:
    def found(rng: np.random.Generator) -> tuple[Interval | None, float]:
        latencies = dependent(rng, blocks, length)
        overall = quantile(latencies, p)
        return (None if overall is None else sectioned_interval(list(latencies), p, overall.value)), _truth(p)

    return found


def _energy(rounds: int) -> Found:
    """Both networks' energies scatter by 4 % a block: as `time_rows.paired_row` makes its interval."""
    return lambda rng: (geometric_mean(0.5 * np.exp(rng.normal(0, 0.04, rounds))).interval, 0.5)


def _bca(rounds: int) -> Found:
    return lambda rng: (bca_geometric_mean((0.5 * np.exp(rng.normal(0, 0.03, rounds))).tolist()), 0.5)


@dataclass(frozen=True, slots=True)
class _SharedIoU:
    """Two classes' intersections over unions, pooled over images: the shape of mIoU, with a known truth."""

    def value(self, rows: Rows) -> float:
        return float(self.values(rows, np.ones((1, len(rows))))[0])

    def values(self, rows: Rows, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shared, joined = weights @ rows["shared"], weights @ rows["joined"]
        return np.asarray((shared / joined).mean(axis=1), np.float64)

    def per_sample(self, rows: Rows) -> NDArray[np.float64] | None:  # noqa: ARG002 - the protocol's
        return None


def _miou(images: int, *, difference: bool) -> Found:
    """Objects of very different sizes; the quantized network finds a little less of each."""
    truths = np.array([0.7, 0.5]), np.array([0.69, 0.49])

    def found(rng: np.random.Generator) -> tuple[Interval | None, float]:
        joined = rng.lognormal(5, 0.8, (images, 2))
        common = rng.normal(0, 0.10, (images, 2))
        arms = []
        for share in truths:
            shared = joined * np.clip(share + common + rng.normal(0, 0.05, (images, 2)), 0, 1)
            arms.append(Rows({"shared": shared, "joined": joined}))
        drawn = paired_bootstrap(_SharedIoU(), arms[0], arms[1])
        means = [float(one.mean()) for one in truths]
        return (drawn.difference, means[1] - means[0]) if difference else (drawn.first, means[0])

    return found


def _bounds(runs: int) -> list[Row]:
    """How often the p-quantile lies above its early-stopping bound, which may be 1 %."""
    rows = []
    for p, blocks, length, rho in (
        (0.9, 12, 300, 0.0),
        (0.99, 12, 300, 0.0),
        (0.9, 12, 300, 0.9),
        (0.99, 40, 1000, 0.9),
    ):
        rng = np.random.default_rng(20_261_121)
        missed = given = 0
        for _ in range(runs):
            bound = tail_bound(list(dependent(rng, blocks, length, rho)), p)
            given += bound.value is not None
            missed += bound.value is not None and bound.value < _truth(p)
        kind = f"autocorrelation {rho:g}" if rho else "independent"
        rows.append(
            Row(
                f"early-stopping bound of p{100 * p:g}, {blocks} blocks of {length} iterations, {kind}: runs it misses",
                "%",
                (100 * missed / runs,),
                goal=Goal("ours", most=2.0),
                note=f"given in {given:,} of {runs:,} runs",
            )
        )
    return rows


def _type_one(runs: int) -> list[Row]:
    """The true loss equals the margin: it may pass in 2.5 % of the runs."""
    rows = []
    for n, first, second, margin in ((1500, 0.03, 0.02, 0.01), (400, 0.03, 0.01, 0.02), (3000, 0.012, 0.002, 0.01)):
        rng = np.random.default_rng(20_261_121)
        counts = rng.multinomial(n, [first, second, 1 - first - second], size=runs)
        verdicts = {
            pair: non_inferiority(*pair, n, margin).verdict for pair in {(int(b), int(c)) for b, c, _ in counts}
        }
        passed = sum(verdicts[int(b), int(c)] == "pass" for b, c, _ in counts)
        rows.append(
            Row(
                f"non-inferiority, the true loss is the margin of {margin:.0%}, {first + second:.1%} of {n:,} samples "
                "discordant: passes",
                "%",
                (100 * passed / runs,),
                goal=TYPE_ONE,
                note=f"{runs:,} runs",
            )
        )
    return rows
