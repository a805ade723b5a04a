"""How much a series moves from night to night when nothing changed: the yardstick that every step is held against.

An estimate y_t has a known part of error, s_t (from its own interval), and an unknown one, tau: the board is warmer,
the process lies elsewhere in memory. Both make var_t = s_t^2 + tau^2. tau is estimated from what is left around the
levels and, since a new series has few nights, drawn towards a prior that counts as a few nights of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The prior of tau counts as this many nights; chosen on the tuning seeds of `python -m benchmarks change_points`, like
#: the two constants below.
PRIOR_NIGHTS = 4.0
#: tau is never taken below this share of the prior: nine quiet nights are no proof that the tenth is quiet.
LEAST_SHARE = 0.8
#: Autocorrelation is drawn towards zero as if this many nights had shown none.
CORRELATION_NIGHTS = 30.0


@dataclass(frozen=True, slots=True)
class Noise:
    """What is known of a series' noise.

    Args:
        tau: standard deviation from night to night, in the unit of the series.
        correlation: between neighbouring nights, 0 to 0.8.
        freedom: degrees of freedom of tau, the prior's nights included.
    """

    tau: float
    correlation: float
    freedom: float

    def variance(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each night: its own error and tau together."""
        return np.asarray(errors**2 + self.tau**2, dtype=np.float64)

    def level(self, values: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[float, float]:
        """The weighted mean of some nights in a row, and its standard error with their correlation counted."""
        weights = 1 / self.variance(errors)
        total = float(weights.sum())
        mean = float((weights * values).sum()) / total
        return mean, math.sqrt(self.inflation(len(values)) / total)

    def inflation(self, nights: int) -> float:
        """How many times the variance of a mean of `nights` exceeds that of independent ones (AR(1))."""
        lags = np.arange(1, nights)
        return 1 + 2 * float(((1 - lags / nights) * self.correlation**lags).sum()) if nights > 1 else 1.0


def first_guess(values: NDArray[np.float64], errors: NDArray[np.float64], prior: float) -> Noise:
    """The noise before any step is known: from differences of neighbouring nights, which a few steps hardly touch.

    The median of |y_t+1 - y_t| over sqrt(2) * 0.6745 is the standard deviation of a normal series.

    Args:
        values: of the nights, at least one.
        errors: standard errors of the same nights.
        prior: what tau is taken for before anything is known.
    """
    if len(values) < 2:
        return Noise(prior, 0.0, PRIOR_NIGHTS)
    spread = float(np.median(np.abs(np.diff(values)))) / (math.sqrt(2) * 0.6745)
    own = float(np.median(errors**2))
    return _mixed(max(spread**2 - own, 0.0), len(values) - 1, prior, 0.0)


def around_levels(
    values: NDArray[np.float64], errors: NDArray[np.float64], edges: Sequence[int], prior: float
) -> Noise:
    """The noise of a series whose levels are known.

    Args:
        values: of the nights.
        errors: their standard errors.
        edges: where levels begin and the last one ends: 0, …, len(values).
        prior: as above.
    """
    residuals = np.concatenate([values[a:b] - values[a:b].mean() for a, b in itertools.pairwise(edges)])
    freedom = len(values) - (len(edges) - 1)
    if freedom < 1:
        return first_guess(values, errors, prior)
    # each level spends one degree of freedom, so the mean square of residuals is divided by what is left
    excess = (float((residuals**2).sum()) - freedom * float(np.mean(errors**2))) / freedom
    return _mixed(max(excess, 0.0), freedom, prior, _correlation(residuals, edges, freedom))


def _correlation(residuals: NDArray[np.float64], edges: Sequence[int], freedom: int) -> float:
    power = float((residuals**2).sum())
    if power <= 0:
        return 0.0
    inside = np.ones(len(residuals), dtype=bool)
    inside[list(edges[:-1])] = False  # the first night of a level has no neighbour on it
    products = float((residuals[1:] * residuals[:-1])[inside[1:]].sum())
    raw = products / power * (len(residuals) / max(int(inside.sum()), 1))
    # a mean taken from the same nights pulls their correlation down by about (1 + 3 rho) / n (Kendall 1954)
    levels = len(edges) - 1
    raw += (1 + 3 * max(raw, 0.0)) * levels / len(residuals)
    return min(max(raw, 0.0), 0.8) * freedom / (freedom + CORRELATION_NIGHTS)


def _mixed(variance: float, nights: float, prior: float, correlation: float) -> Noise:
    total = nights + PRIOR_NIGHTS
    mixed = (nights * variance + PRIOR_NIGHTS * prior**2) / total
    return Noise(max(math.sqrt(mixed), LEAST_SHARE * prior), correlation, total)
