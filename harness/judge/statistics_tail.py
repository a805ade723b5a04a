"""Bounds on the tail of latencies: MLPerf's early stopping, with regard to iterations that depend on each other.

For n independent latencies, the largest t with I(p; n - t, t + 1) <= .01 (I: the regularized incomplete beta function,
here the probability that at most t of n exceed the p-quantile) may be discarded: with 99 % confidence the largest
latency left is no less than the p-quantile once t - 1 are gone (MLPerf inference rules, appendix "Early stopping
criterion"). At least 64 latencies are needed for p90, 130 for p95, 662 for p99 and 6,636 for p99.9.

Iterations of one block share frequency, cache and neighbours, so n of them tell less than n independent ones: the
shares of slow iterations scatter between blocks more than independence allows, by a factor: the design effect. The
bound then takes n / design effect for n (L. Kish, Survey Sampling, 1965, 8.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

#: One-sided, as MLPerf has it.
BOUND_CONFIDENCE = 0.99
#: Upper tail areas of chi^2 (as scipy.special.chdtri takes them): dependence is believed at 5 %, its limit is at 90 %.
_INDEPENDENT_UNTIL, _UPPER_LIMIT = 0.05, 0.90


@dataclass(frozen=True, slots=True)
class TailBound:
    """A latency that the p-quantile does not exceed, with 99 % confidence.

    Args:
        value: None where the samples cannot carry it.
        n: latencies.
        effective_n: how many independent ones tell as much; n where nothing speaks against independence.
        least_n: how many it takes.
    """

    value: float | None
    n: int
    effective_n: float
    least_n: int


def discardable(n: float, p: float, confidence: float = BOUND_CONFIDENCE) -> float | None:
    """The largest real t >= 1 with I(p; n - t, t + 1) <= 1 - confidence; None where n is too small for t = 1."""

    def excess(t: float) -> float:
        return float(special.betainc(n - t, t + 1, p)) - (1 - confidence)

    if n <= 2 or excess(1.0) > 0:
        return None
    return float(optimize.brentq(excess, 1.0, n * (1 - p), xtol=1e-9))


def least_n(p: float, confidence: float = BOUND_CONFIDENCE) -> int:
    """How many independent latencies a bound on the p-quantile takes: 64, 130, 662, 6,636 for p90, p95, p99, p99.9."""
    low, high = 2, 4
    while discardable(high, p, confidence) is None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if discardable(middle, p, confidence) is not None else (middle, high)
    return high


def design_effect(blocks: Sequence[ArrayLike], p: float) -> float:
    """How much more the blocks' shares above the p-quantile scatter than independence allows; at least 1.

    d = sum_b (x_b - k_b x/n)^2 B/(B - 1) / (n s (1 - s)), with x_b of k_b iterations of block b above the p-quantile of
    all, x their sum and s = x/n. Were the iterations independent, (B - 1) d would follow chi^2 with B - 1 degrees of
    freedom: up to its 95 % point the effect is 1, beyond it the upper 90 % limit of d, since a few blocks may
    understate it and a bound must not rest on luck. 1 with one block, which cannot tell.
    """
    arrays = [np.asarray(block, dtype=np.float64).ravel() for block in blocks]
    everything = np.sort(np.concatenate(arrays))
    n = int(everything.size)
    threshold = everything[max(math.ceil(n * p) - 1, 0)]
    above = np.array([np.count_nonzero(one > threshold) for one in arrays], dtype=np.float64)
    lengths = np.array([one.size for one in arrays], dtype=np.float64)
    share = float(above.sum()) / n
    if len(arrays) < 2 or not 0 < share < 1:
        return 1.0
    scatter = float(np.sum((above - lengths * share) ** 2)) * len(arrays) / (len(arrays) - 1)
    observed, free = scatter / (n * share * (1 - share)), len(arrays) - 1
    if free * observed <= special.chdtri(free, _INDEPENDENT_UNTIL):
        return 1.0
    return max(1.0, observed * free / float(special.chdtri(free, _UPPER_LIMIT)))


def tail_bound(blocks: Sequence[ArrayLike], p: float) -> TailBound:
    """The early-stopping bound on the p-quantile of all latencies of these blocks."""
    everything = np.sort(np.concatenate([np.asarray(block, dtype=np.float64).ravel() for block in blocks]))
    n = int(everything.size)
    effect = design_effect(blocks, p)
    t = discardable(n / effect, p)
    if t is None:
        return TailBound(None, n, n / effect, least_n(p))
    # 1e-6: an integer that the search found to nine digits is that integer
    discarded = math.floor(t * effect + 1e-6) - 1
    return TailBound(float(everything[n - 1 - max(discarded, 0)]), n, n / effect, least_n(p))
