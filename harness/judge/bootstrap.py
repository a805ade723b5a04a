"""Paired bootstrap over samples: intervals of metrics that are no mean of values of the samples (mAP, mIoU, …).

Each resample draws the samples of both networks alike, so a difficult image counts, or does not, on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.judge.metrics import Formula, Rows, Weights
from harness.judge.statistics import CONFIDENCE, Interval, t_quantile

#: Resamples: the 2.5 % tail then rests on 50 values.
RESAMPLES = 2000
SEED = 20_251_121
#: Samples left out at a time in the jackknife are chosen so that there are at most so many groups.
_GROUPS = 200
#: Weights held at a time, values.
_HELD = 8_000_000
#: With more than this share of the resamples undefined (no labelled box drawn) there is no interval.
_MOST_UNDEFINED = 0.05

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairedBootstrap:
    """A metric of both networks, resampled together.

    Args:
        first: interval of the float network's value; None where there is none (fewer than two samples, no value).
        second: of the quantized network's.
        difference: of second - first.
        differences: second - first of every resample, sorted; for other limits than those of `difference`.
        resamples: how many.
        n: samples.
    """

    first: Interval | None
    second: Interval | None
    difference: Interval | None
    differences: _Values
    resamples: int
    n: int


def paired_bootstrap(
    formula: Formula,
    first: Rows,
    second: Rows,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> PairedBootstrap:
    """Intervals of two paired values and their difference: value ± t_{n-1} times the bootstrap's standard error.

    The standard error is the deviation of the resamples, times sqrt(n / (n - 1)) for the spread that resampling loses
    (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, 12.2 and 5.3). In simulation
    (`python -m benchmarks metric_intervals`) it covers the difference of mAP and of mIoU nearer to 95 % than percentile
    and BCa limits do: both metrics are mildly biased on few samples, and BCa "corrects" for that bias where the paired
    difference has none.

    Args:
        formula: of the metric.
        first: the float network's rows.
        second: the quantized network's, of the same samples in the same order.
        resamples: at least 2,000 for published figures.
        seed: the draws depend on it, on `resamples` and on the number of samples alone.
        confidence: two-sided level.

    Raises:
        ValueError: not the same samples.
    """
    n = len(first)
    if len(second) != n:
        msg = f"{n} and {len(second)} samples are not paired"
        raise ValueError(msg)
    ones = np.ones((1, n))
    point = _pair(formula, first, second, iter([ones]))[0]
    if n < 2:
        return PairedBootstrap(None, None, None, np.empty(0), 0, n)
    drawn = _pair(formula, first, second, draws(n, resamples, seed))
    ends = [_student(drawn[:, i], float(point[i]), n, confidence) for i in range(3)]
    differences = np.sort(drawn[:, 2][~np.isnan(drawn[:, 2])])
    return PairedBootstrap(ends[0], ends[1], ends[2], differences, resamples, n)


def draws(n: int, resamples: int, seed: int = SEED) -> Iterator[Weights]:
    """How often each of n samples was drawn in each resample, in blocks [r, n].

    Indices are the upper 32 bits of Philox's raw stream, scaled to 0…n-1: numpy keeps that stream from version to
    version, which it does not promise of any distribution (NEP 19), and a verdict must recompute exactly.
    """
    stream = np.random.Philox(seed)
    step = max(1, _HELD // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        raw = stream.random_raw(count * n).reshape(count, n)
        chosen = ((raw >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)
        flat = chosen.astype(np.intp) + np.arange(count)[:, None] * n
        yield np.bincount(flat.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def without_groups(n: int) -> Weights:
    """The jackknife's weights: all samples but one of at most 200 groups of neighbours, in turn; [groups, n]."""
    groups = min(n, _GROUPS)
    of_group = np.arange(n) * groups // n
    return np.asarray(of_group[None, :] != np.arange(groups)[:, None], np.float64)


def _pair(formula: Formula, first: Rows, second: Rows, blocks: Iterator[Weights]) -> _Values:
    """[R, 3]: first, second, second - first."""
    parts = []
    for weights in blocks:
        one, other = formula.values(first, weights), formula.values(second, weights)
        parts.append(np.column_stack([one, other, other - one]))
    return np.concatenate(parts)


def _student(drawn: _Values, point: float, n: int, confidence: float) -> Interval | None:
    known = drawn[~np.isnan(drawn)]
    if math.isnan(point) or len(known) < (1 - _MOST_UNDEFINED) * len(drawn):
        return None
    half = t_quantile(n, confidence) * float(np.std(known)) * math.sqrt(n / (n - 1))
    return Interval(point - half, point + half)


def bca(drawn: _Values, point: float, left_out: _Values, confidence: float = CONFIDENCE) -> Interval | None:
    """The bias-corrected and accelerated interval.

    Args:
        drawn: the figure of every resample; NaN where it is undefined.
        point: of the samples themselves.
        left_out: of the samples without one group of them, in turn.
        confidence: two-sided level.

    Returns:
        None where too many resamples are undefined.
    """
    known = np.sort(drawn[~np.isnan(drawn)])
    if math.isnan(point) or len(known) < (1 - _MOST_UNDEFINED) * len(drawn):
        return None
    # half of those that equal the point count as below it: discrete metrics have many
    below = (np.count_nonzero(known < point) + np.count_nonzero(known <= point)) / (2 * len(known))
    tail = (1 - confidence) / 2
    levels = [tail, 1 - tail]
    if 0 < below < 1:
        bias = float(special.ndtri(below))
        acceleration = _acceleration(left_out)
        for at, level in enumerate((tail, 1 - tail)):
            z = bias + float(special.ndtri(level))
            shifted = bias + z / (1 - acceleration * z) if 1 - acceleration * z > 0 else math.inf * z
            levels[at] = float(special.ndtr(shifted))
    low, high = np.quantile(known, levels)
    return Interval(float(low), float(high))


def _acceleration(left_out: _Values) -> float:
    values = left_out[~np.isnan(left_out)]
    if len(values) < 2:
        return 0.0
    around = values.mean() - values
    spread = float(np.sum(around**2)) ** 1.5
    return float(np.sum(around**3)) / (6 * spread) if spread > 0 else 0.0
