"""Intervals and tests for paired accuracies, paired times and latency percentiles.

Every function is pure and deterministic; formulas and sources stand at each. All intervals are two-sided, 95 % unless
`confidence` says otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from scipy.stats import mstats

CONFIDENCE = 0.95

#: Up to here the Harrell-Davis estimator is the point estimate; beyond it leans on too few samples of the tail, and
#: the order statistic itself is given.
HARRELL_DAVIS_UP_TO = 0.95

#: And up to so many samples: beyond, its weights span less than 1/300 of the samples and take seconds to compute.
_HARRELL_DAVIS_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a proportion (E. B. Wilson, JASA 22, 1927), without continuity correction.

    Raises:
        ValueError: `n` < 1 or `successes` outside 0…n.
    """
    result = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(result.low), float(result.high))


def mcnemar_exact(float_only: int, quantized_only: int) -> float:
    """Two-sided p-value of the exact McNemar test: a binomial test of the discordant pairs against 1/2.

    Args:
        float_only: b, samples that only the float network got right.
        quantized_only: c, samples that only the quantized network got right.

    Returns:
        p; 1.0 when no pair is discordant. p > .05 is not evidence that the two are equal.
    """
    discordant = float_only + quantized_only
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(min(float_only, quantized_only), discordant, 0.5).pvalue)


def tango(only_first: int, only_second: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a paired difference of proportions (T. Tango, Statistics in Medicine 17, 1998, eq. 5 and 6).

    The interval holds every difference D that the score test does not reject:
    |only_first - only_second - n D| <= z sqrt(n (2 q + D (1 - D))), where q, the probability of "only second", is its
    maximum-likelihood estimate under D: the larger root of 2n q^2 + B q + C = 0 with
    B = -(only_first + only_second) + (2n - only_first + only_second) D and C = -only_second D (1 - D).

    Args:
        only_first: pairs where only the first network is right.
        only_second: pairs where only the second network is right.
        n: all pairs, concordant ones included.
        confidence: two-sided level.

    Returns:
        The interval of p_first - p_second, within [-1, 1].

    Raises:
        ValueError: counts that cannot be.
    """
    if n < 1 or only_first < 0 or only_second < 0 or only_first + only_second > n:
        msg = f"impossible paired counts: {only_first} + {only_second} discordant of {n}"
        raise ValueError(msg)
    z = float(special.ndtri(0.5 + confidence / 2))
    observed = (only_first - only_second) / n

    def excess(difference: float, side: float) -> float:
        b = -(only_first + only_second) + (2 * n - only_first + only_second) * difference
        c = -only_second * difference * (1 - difference)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return only_first - only_second - n * difference - side * z * math.sqrt(max(variance, 0.0))

    # The numerator is 0 at the observed difference and, without discordant pairs or with nothing else, so is the
    # variance: the search starts beside it. The limits lie at least z^2 / n away.
    beside = 1e-9
    low = -1.0 if observed <= -1 else float(optimize.brentq(excess, -1.0, observed - beside, args=(1.0,), xtol=1e-12))
    high = 1.0 if observed >= 1 else float(optimize.brentq(excess, observed + beside, 1.0, args=(-1.0,), xtol=1e-12))
    return Interval(low, high)


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Student's t interval of a mean of independent values; None for fewer than two."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return None
    centre = float(data.mean())
    half = t_quantile(int(data.size), confidence) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(centre - half, centre + half)


@dataclass(frozen=True, slots=True)
class GeometricMean:
    """exp(mean ln x) of independent positive values, with its t interval on the logarithm.

    Args:
        value: the geometric mean.
        interval: None for fewer than two values.
        n: how many values.
    """

    value: float
    interval: Interval | None
    n: int


def geometric_mean(values: ArrayLike, confidence: float = CONFIDENCE) -> GeometricMean:
    """Geometric mean and t interval of `values`, all positive.

    Raises:
        ValueError: no value, or one that is not positive and finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.all(np.isfinite(data)) or np.any(data <= 0):
        msg = "a geometric mean needs positive finite values"
        raise ValueError(msg)
    logs = np.log(data)
    around = mean_interval(logs, confidence)
    centre = float(logs.mean())
    if around is None:
        return GeometricMean(math.exp(centre), None, 1)
    interval = Interval(math.exp(around.low), math.exp(around.high))
    return GeometricMean(math.exp(centre), interval, int(data.size))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Latency of the quantized network over that of the float network, with its interval; n block pairs."""

    value: float
    low: float
    high: float
    n: int


def paired_log_ratio(float_medians: ArrayLike, quantized_medians: ArrayLike, confidence: float = CONFIDENCE) -> Ratio:
    """Quantized over float, from paired blocks.

    d_b = ln m_I,b - ln m_F,b; r = exp(mean d) with the interval exp(mean d +- t_{.975,B-1} s_d / sqrt B). The block is
    the unit: iterations inside a block are autocorrelated.

    Args:
        float_medians: median latency of the float block of each pair, all positive.
        quantized_medians: of the quantized block of the same pair.
        confidence: two-sided level.

    Raises:
        ValueError: fewer than two pairs, or blocks that are not paired.
    """
    first = np.asarray(float_medians, dtype=np.float64)
    second = np.asarray(quantized_medians, dtype=np.float64)
    if first.shape != second.shape:
        msg = f"unpaired blocks: {first.size} float, {second.size} quantized"
        raise ValueError(msg)
    mean = geometric_mean(second / first, confidence)
    if mean.interval is None:
        msg = "an interval needs at least two pairs of blocks"
        raise ValueError(msg)
    return Ratio(mean.value, mean.interval.low, mean.interval.high, mean.n)


def quantile_ranks(n: int, p: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """1-based ranks of the order statistics that bound the p-quantile of n independent samples.

    Ranks binom.ppf(alpha/2, n, p) and binom.ppf(1 - alpha/2, n, p) + 1 (David and Nagaraja, Order Statistics, 7.1).

    Returns:
        None when a rank falls outside 1…n: n samples cannot carry that quantile (n = 300 and p99; 1,000 can: 983, 997).
    """
    if n < 1:
        return None
    tail = (1 - confidence) / 2
    low = int(stats.binom.ppf(tail, n, p))
    high = int(stats.binom.ppf(1 - tail, n, p)) + 1
    return (low, high) if low >= 1 and high <= n else None


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile and the order-statistic interval that would hold if the samples were independent."""

    value: float
    interval: Interval
    n: int


def quantile(samples: ArrayLike, p: float, confidence: float = CONFIDENCE) -> Quantile | None:
    """The p-quantile of `samples`, None where n cannot carry it.

    Harrell-Davis (Biometrika 69, 1982) up to p95, beyond it the order statistic of rank ceil(n p): no interpolation
    between the few samples of a tail.
    """
    data = np.sort(np.asarray(samples, dtype=np.float64).ravel())
    n = int(data.size)
    ranks = quantile_ranks(n, p, confidence)
    if ranks is None:
        return None
    return Quantile(quantile_point(data, p), Interval(float(data[ranks[0] - 1]), float(data[ranks[1] - 1])), n)


def sectioned_interval(
    blocks: Sequence[ArrayLike], p: float, overall: float, confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of a quantile from the spread of the blocks' own quantiles ("sectioning").

    overall * exp(+- t_{B-1} s / sqrt B) with s^2 = sum_b (ln q_b - ln overall)^2 / (B - 1): Asmussen and Glynn,
    Stochastic Simulation, 2007, III.5a, on the logarithm. Iterations inside a block may depend on each other; blocks
    are taken as independent.

    Returns:
        None with fewer than two blocks, or where a block is too short to carry the quantile.
    """
    sorted_blocks = [np.sort(np.asarray(block, dtype=np.float64).ravel()) for block in blocks]
    if len(sorted_blocks) < 2 or any(quantile_ranks(int(b.size), p, confidence) is None for b in sorted_blocks):
        return None
    logs = np.log([quantile_point(block, p) for block in sorted_blocks]) - math.log(overall)
    count = len(sorted_blocks)
    spread = math.sqrt(float(np.sum(logs**2)) / (count - 1))
    half = t_quantile(count, confidence) * spread / math.sqrt(count)
    return Interval(overall * math.exp(-half), overall * math.exp(half))


def quantile_point(data: NDArray[np.float64], p: float) -> float:
    """The estimate alone, of sorted `data`: see `quantile`."""
    if p <= HARRELL_DAVIS_UP_TO and data.size <= _HARRELL_DAVIS_MOST:
        return float(mstats.hdquantiles(data, prob=[p])[0])
    return float(data[math.ceil(data.size * p) - 1])


@functools.cache
def t_quantile(n: int, confidence: float = CONFIDENCE) -> float:
    """Student's two-sided t of n values: n - 1 degrees of freedom."""
    return float(special.stdtrit(n - 1, 0.5 + confidence / 2))
