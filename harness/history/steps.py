"""Steps in a series: found by a change-point search (ruptures, PELT), confirmed by four votes.

    found = find_steps(values, errors, regimes, least_change=0.01)
    found.steps[-1].change, found.steps[-1].interval, found.steps[-1].p

The four votes (the shape of .NET's automatic filing of regressions): the step is large enough to matter; a two-sample
t test of the levels beside it; the first nights of the new level agree and lie on its side each for itself, so
that one bad night is no step; the search puts a change point there. A step is known after two nights of the new level,
never after one.

Where the machine changed (`regimes`), the series is cut: levels on both sides are estimated apart, and a difference
between them is a step of the machine's.

The search is PELT (Killick, Fearnhead, Eckley, JASA 107, 2012) on the weighted squared distance from the levels, in
units of the noise, so that its penalty is a number of squared standard deviations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.history.noise import Noise, around_levels, first_guess

#: Two nights of a new level make it known.
CONFIRMED_AFTER = 2
#: Gain, in squared standard deviations of the noise, that one more change point must bring; chosen on the tuning seeds
#: of `python -m benchmarks change_points`.
PENALTY = 8.0
#: Two-sided level of the t test; chosen on the same seeds.
ALPHA = 0.005
#: A night of the new level must lie this share of the step away from the old one: half would ask two lucky nights in a
#: row, nothing would let one bad night carry a good one.
OWN_SHARE = 0.3
#: The first nights of the new level must not lie further apart than so many standard deviations of their difference:
#: a bad night and a good one are not a level. Of real steps this costs one in 400.
AGREE_WITHIN = 3.0
#: Two-sided level at which the last night alone is pointed out.
SUSPECT_ALPHA = 0.002


@dataclass(frozen=True, slots=True)
class Level:
    """A stretch of nights on one level.

    Args:
        start: index of its first night.
        stop: index behind its last night.
        value: the weighted mean, in the unit of the series.
        error: its standard error.
    """

    start: int
    stop: int
    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Step:
    """A change from one level to the next.

    Args:
        index: of the first night on the new level.
        change: new minus old, in the unit of the series (a logarithm for times).
        interval: 95 %, Student's t.
        p: two-sided, of the t test.
        nights: how many nights the new level has been seen.
        at_regime: the machine changed on that very night.
        earliest: first index at which the change may lie by the data alone (see `_place`).
        latest: the last such index.
    """

    index: int
    change: float
    interval: tuple[float, float]
    p: float
    nights: int
    at_regime: bool
    earliest: int
    latest: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a series' nights say.

    Args:
        levels: in order, covering every night.
        steps: those between levels that all votes confirm.
        suspected: the last night alone departs from its level: one night is no step yet. Its change, or None.
        noise: the yardstick.
    """

    levels: tuple[Level, ...]
    steps: tuple[Step, ...]
    suspected: float | None
    noise: Noise


def find_steps(
    values: ArrayLike,
    errors: ArrayLike,
    regimes: Sequence[int] | None = None,
    *,
    least_change: float,
    penalty: float = PENALTY,
    alpha: float = ALPHA,
) -> Found:
    """All steps of one series, seen from its last night.

    Args:
        values: one estimate a night, oldest first; a logarithm where changes are ratios.
        errors: their standard errors; 0 where the estimate is exact.
        regimes: a number a night; where it changes, the machine changed. None: it never did.
        least_change: what matters, in the unit of `values`; a third of it is the prior of the night-to-night deviation.
        penalty: of the search.
        alpha: of the t test.

    Raises:
        ValueError: no night, lengths that differ, numbers that are not finite.
    """
    y, s = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    kinds = np.zeros(len(y), dtype=int) if regimes is None else np.asarray(regimes, dtype=int)
    if not len(y) or not len(y) == len(s) == len(kinds):
        msg = f"{len(y)} values, {len(s)} errors and {len(kinds)} regimes make no series"
        raise ValueError(msg)
    if not (np.isfinite(y).all() and np.isfinite(s).all() and (s >= 0).all() and least_change > 0):
        msg = "values and errors must be finite, errors not negative, least_change above 0"
        raise ValueError(msg)
    prior = least_change / 3
    cuts = [int(i) for i in np.flatnonzero(np.diff(kinds)) + 1]
    fixed = [0, *cuts, len(y)]
    noise = _first_noise(y, s, fixed, prior)
    edges = fixed
    for _ in range(2):  # the noise is known better once the steps are, and the other way round
        edges = _search(y, s, fixed, noise, penalty)
        noise = around_levels(y, s, edges, prior)
    edges, noise = _confirmed(y, s, edges, cuts, noise, prior, least_change, alpha)
    levels = _levels(y, s, edges, noise)
    steps = tuple(
        step
        for before, after in itertools.pairwise(levels)
        if (step := _step(y, s, before, after, cuts, noise, least_change, alpha)) is not None
    )
    return Found(levels, steps, _suspect(y, s, levels, noise, least_change), noise)


def _first_noise(y: NDArray[np.float64], s: NDArray[np.float64], fixed: Sequence[int], prior: float) -> Noise:
    """From the longest stretch on one machine: where it changed, the difference of neighbours is no noise."""
    start, stop = max(itertools.pairwise(fixed), key=lambda ends: ends[1] - ends[0])
    return first_guess(y[start:stop], s[start:stop], prior)


def _search(
    y: NDArray[np.float64], s: NDArray[np.float64], fixed: Sequence[int], noise: Noise, penalty: float
) -> list[int]:
    """Edges of levels: those that are fixed, and what PELT finds between them."""
    import ruptures

    # neighbours that move together bring a change point more gain than it deserves
    price = penalty * noise.inflation(CONFIRMED_AFTER)
    edges = [0]
    for start, stop in itertools.pairwise(fixed):
        if stop - start >= 2 * CONFIRMED_AFTER:
            # l2 of a signal in units of its noise; weights that differ from night to night need the weighted cost
            cost = _weighted_cost(y[start:stop], 1 / noise.variance(s[start:stop]))
            search = ruptures.Pelt(custom_cost=cost, min_size=CONFIRMED_AFTER, jump=1)
            edges += [start + int(i) for i in search.fit(y[start:stop]).predict(pen=price)[:-1]]
        edges.append(stop)
    return edges


def _weighted_cost(y: NDArray[np.float64], weights: NDArray[np.float64]) -> object:
    from ruptures.base import BaseCost

    centred = y - y.mean()  # the sums of squares below lose no digits to a large mean
    # lists: PELT asks for single numbers, a hundred thousand times
    total, first, second = (
        np.concatenate([[0.0], np.cumsum(weights * centred**power)]).tolist() for power in (0, 1, 2)
    )

    class WeightedL2(BaseCost):  # type: ignore[misc] # ruptures ships no types
        """Sum of w (y - weighted mean)^2 of a stretch, from running sums."""

        model = "weighted l2"
        min_size = 1

        def fit(self, signal: NDArray[np.float64]) -> WeightedL2:
            self.signal = signal.reshape(-1, 1)
            return self

        def error(self, start: int, end: int) -> float:
            weighted: float = first[end] - first[start]
            rest: float = second[end] - second[start] - weighted * weighted / (total[end] - total[start])
            return max(rest, 0.0)

    return WeightedL2()


def _confirmed(
    y: NDArray[np.float64],
    s: NDArray[np.float64],
    edges: list[int],
    cuts: Sequence[int],
    noise: Noise,
    prior: float,
    least_change: float,
    alpha: float,
) -> tuple[list[int], Noise]:
    """Edges without those that fail a vote, the weakest taken out first since its neighbours gain its nights."""
    while True:
        levels = _levels(y, s, edges, noise)
        weakest: tuple[float, int] | None = None
        for before, after in itertools.pairwise(levels):
            if after.start in cuts:
                continue
            if _step(y, s, before, after, cuts, noise, least_change, alpha) is None:
                size = abs(after.value - before.value) / math.hypot(before.error, after.error)
                weakest = min(weakest or (math.inf, 0), (size, after.start))
        if weakest is None:
            return edges, noise
        edges = [edge for edge in edges if edge != weakest[1]]
        noise = around_levels(y, s, edges, prior)


def _levels(y: NDArray[np.float64], s: NDArray[np.float64], edges: Sequence[int], noise: Noise) -> tuple[Level, ...]:
    return tuple(Level(a, b, *noise.level(y[a:b], s[a:b])) for a, b in itertools.pairwise(edges))


def _step(
    y: NDArray[np.float64],
    s: NDArray[np.float64],
    before: Level,
    after: Level,
    cuts: Sequence[int],
    noise: Noise,
    least_change: float,
    alpha: float,
) -> Step | None:
    """The step between two levels, None where a vote is against it."""
    from scipy import special

    nights = after.stop - after.start
    change = after.value - before.value
    if nights < CONFIRMED_AFTER or abs(change) < least_change:
        return None
    error = math.hypot(before.error, after.error)
    p = 2 * float(special.stdtr(noise.freedom, -abs(change) / error))
    if p >= alpha:
        return None
    own = slice(after.start, after.start + CONFIRMED_AFTER)
    if ((y[own] - before.value) / change < OWN_SHARE).any():
        return None
    if np.ptp(y[own]) > AGREE_WITHIN * math.sqrt(float(noise.variance(s[own]).sum())):
        return None
    half = float(special.stdtrit(noise.freedom, 0.975)) * error
    at_regime = after.start in cuts
    earliest, latest = (after.start, after.start) if at_regime else _place(y, s, before, after, noise)
    return Step(after.start, change, (change - half, change + half), p, nights, at_regime, earliest, latest)


def _place(
    y: NDArray[np.float64], s: NDArray[np.float64], before: Level, after: Level, noise: Noise
) -> tuple[int, int]:
    """Where the change may lie: every place whose squared distance is within 3.84 (95 %) of the best one's.

    Profile likelihood with the two levels held; neighbours' levels are not moved.
    """
    weights = 1 / noise.variance(s[before.start : after.stop])
    inside = y[before.start : after.stop]
    to_old, to_new = weights * (inside - before.value) ** 2, weights * (inside - after.value) ** 2
    cost = np.concatenate([[0.0], np.cumsum(to_old)]) + float(to_new.sum()) - np.concatenate([[0.0], np.cumsum(to_new)])
    near = np.flatnonzero(cost <= cost[after.start - before.start] + 3.84)
    inner = near[(near >= 1) & (near < len(inside))]
    found = inner + before.start
    return min(int(found.min(initial=after.start)), after.start), max(int(found.max(initial=after.start)), after.start)


def _suspect(
    y: NDArray[np.float64], s: NDArray[np.float64], levels: Sequence[Level], noise: Noise, least_change: float
) -> float | None:
    from scipy import special

    last = levels[-1]
    if last.stop - last.start < 2:
        return None
    value, error = noise.level(y[last.start : -1], s[last.start : -1])
    change = float(y[-1]) - value
    spread = math.sqrt(error**2 + float(noise.variance(s[-1:])[0]))
    beyond = 2 * float(special.stdtr(noise.freedom, -abs(change) / spread)) < SUSPECT_ALPHA
    return change if beyond and abs(change) >= least_change else None
