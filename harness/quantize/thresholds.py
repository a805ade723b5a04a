"""Choosing how much of a tensor's range to give up: percentile, squared error, Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.quantize.histogram import Histogram
from harness.quantize.pattern import HALF_BINS

FloatArray = NDArray[np.float64]

#: Share of values kept by `percentile`; 99.999 % is the usual choice for activations.
PERCENTILE = 0.99999
#: Candidate clipped ranges, as shares of the full one: even steps, then finer ones for a tensor with a far outlier.
_SHARES = np.concatenate([np.linspace(1.0, 0.2, 81), np.geomspace(0.2, 0.01, 31)[1:]])
#: Integers that stand for values of one sign at least, whatever the other sign takes.
_LEAST_LEVELS = 128
#: How many positions beyond the first the DPU's search tries.
_POSITIONS = 5


def clipped_range(
    histogram: Histogram, low: float, high: float, method: str, *, symmetric: bool
) -> tuple[float, float]:
    """A range inside [low, high] by percentile, mse or entropy.

    Args:
        histogram: the tensor's values.
        low: minimum, ≤ 0.
        high: maximum, ≥ 0.
        method: percentile, mse or entropy.
        symmetric: the type is int8 with zero point 0 (otherwise asymmetric with 256 levels).
    """
    if method == "percentile":
        return _percentile(histogram, low, high)
    if method == "mse":
        return _least_error(histogram, low, high, symmetric=symmetric)
    # Of 256 integers, as many as lie on the wider side of zero.
    wider = max(-low, high)
    levels = _LEAST_LEVELS if symmetric else max(round(256 * wider / (high - low)), _LEAST_LEVELS)
    threshold = _entropy_threshold(histogram, wider, levels)
    return max(low, -threshold), min(high, threshold)


def _percentile(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    cumulative = np.cumsum(histogram.counts)
    outside = (1 - PERCENTILE) / 2 * cumulative[-1]
    edges = histogram.edges
    upper = edges[np.searchsorted(cumulative, cumulative[-1] - outside) + 1]
    lower = edges[np.searchsorted(cumulative, outside, side="right")]
    return max(low, min(float(lower), 0.0)), min(high, max(float(upper), 0.0))


class _Error:
    """Expected squared error of quantizing a histogram's values, from prefix sums: each query is cheap."""

    def __init__(self, histogram: Histogram) -> None:
        counts = histogram.counts.astype(np.float64)
        # Zero is represented exactly by every type we use.
        counts[HALF_BINS] -= histogram.zeros
        edges = histogram.edges
        centres = (edges[:-1] + edges[1:]) / 2
        self._edges = edges
        self._n, self._sum, self._squares = (
            np.concatenate(([0.0], np.cumsum(counts * centres**power))) for power in range(3)
        )

    def at(self, low: FloatArray, high: FloatArray, step: FloatArray) -> FloatArray:
        """Squared error with values clipped to [low, high] and rounded to `step`, one of each per choice.

        Inside, rounding costs step²/12 a value; outside, the distance to the bound.
        """
        positions = np.arange(len(self._edges))
        below, above = (np.interp(bound, self._edges, positions) for bound in (low, high))
        (n0, n1), (total0, total1), (squares0, squares1) = (
            (np.interp(below, positions, series), np.interp(above, positions, series))
            for series in (self._n, self._sum, self._squares)
        )
        under = squares0 - 2 * low * total0 + low**2 * n0
        over = self._squares[-1] - squares1 - 2 * high * (self._sum[-1] - total1) + high**2 * (self._n[-1] - n1)
        error: FloatArray = np.maximum(under, 0) + np.maximum(over, 0) + (n1 - n0) * step**2 / 12
        return error


def _least_error(histogram: Histogram, low: float, high: float, *, symmetric: bool) -> tuple[float, float]:
    error = _Error(histogram)
    if symmetric:
        tops = _SHARES * max(-low, high)
        best = float(tops[np.argmin(error.at(-tops, tops, tops / 127))])
        return max(low, -best), min(high, best)

    def least(lower: FloatArray, upper: FloatArray) -> int:
        return int(np.argmin(error.at(lower, upper, (upper - lower) / 255)))

    same = np.ones_like(_SHARES)
    share = _SHARES[least(_SHARES * low, _SHARES * high)]
    # The two tails need not be alike: refine one, then the other.
    upper = _SHARES[least(share * low * same, _SHARES * high)] * high
    lower = _SHARES[least(_SHARES * low, upper * same)] * low
    return float(lower), float(upper)


def position_by_error(histogram: Histogram, position: int, *, unsigned: bool) -> int:
    """The DPU's search: the least squared error over position … position + 4; the first of equals.

    The error is estimated from the histogram instead of one batch's values, so all data count.
    """
    positions = np.arange(position, position + _POSITIONS)
    steps = np.exp2(-positions.astype(np.float64))
    bottom, top = (0, 255) if unsigned else (-128, 127)
    return int(positions[np.argmin(_Error(histogram).at(bottom * steps, top * steps, steps))])


def _entropy_threshold(histogram: Histogram, magnitude: float, levels: int) -> float:
    """|x| beyond which values are clipped, so that the quantized distribution is nearest to the clipped one.

    The procedure of Migacz, '8-bit inference with TensorRT' (GTC 2017): for each candidate threshold compare
    the clipped distribution with its `levels`-level quantization by Kullback-Leibler divergence.
    """
    folded = histogram.counts[HALF_BINS:].astype(np.float64)
    folded += histogram.counts[:HALF_BINS][::-1]
    folded[0] -= histogram.zeros
    used = int(np.flatnonzero(folded)[-1]) + 1 if folded.any() else 0
    if used <= levels:
        return magnitude
    best, best_divergence = used, np.inf
    for size in np.unique(np.linspace(levels, used, 96).astype(int)):
        divergence = _divergence(folded, int(size), levels)
        if divergence < best_divergence:
            best, best_divergence = int(size), divergence
    return min(magnitude, best * histogram.width)


def _divergence(folded: FloatArray, size: int, levels: int) -> float:
    reference = folded[:size].copy()
    inside = reference.copy()
    reference[-1] += folded[size:].sum()
    starts = np.arange(levels) * size // levels
    sums = np.add.reduceat(inside, starts)
    filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
    lengths = np.diff(np.append(starts, size))
    level = np.repeat(np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0), lengths)
    candidate = np.where(inside > 0, level, 0.0)
    total, mass = reference.sum(), candidate.sum()
    if total == 0 or mass == 0:
        return float("inf")
    p, q = reference / total, candidate / mass
    # A bin that only the clipped tail fills has no counterpart; smooth instead of an infinite divergence.
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-9))))
