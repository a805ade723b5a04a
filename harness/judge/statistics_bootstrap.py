"""The second opinion: BCa bootstrap over blocks (B. Efron, JASA 82, 1987), drawn as in `bootstrap`.

It makes no use of normality, and covers less than it says with few values: 89 % instead of 95 % at 10, 92 % at 20, 95 %
at 40 (docs/statistics.md). So Student's or Stein's interval is the one that is published, and this one stands in the
note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.judge.bootstrap import bca, draws, without_groups
from harness.judge.statistics import CONFIDENCE, Interval

#: Resamples: the ends then scatter by a fiftieth of the interval.
RESAMPLES = 10_000
#: With fewer values it covers less than 90 %: no opinion worth telling.
LEAST_VALUES = 10


def bca_geometric_mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """BCa interval of exp(mean ln x) of independent positive values.

    Returns:
        None for fewer than `LEAST_VALUES` values, or where all are equal.
    """
    logs = np.log(np.asarray(values, dtype=np.float64))
    if logs.size < LEAST_VALUES or float(np.ptp(logs)) == 0.0:
        return None
    drawn = np.concatenate([weights @ logs / logs.size for weights in draws(logs.size, RESAMPLES)])
    left = without_groups(logs.size)
    found = bca(drawn, float(logs.mean()), left @ logs / left.sum(axis=1), confidence)
    return None if found is None else Interval(math.exp(found.low), math.exp(found.high))
