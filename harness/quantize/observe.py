"""What is remembered of a tensor while data streams past: never more than a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.quantize.histogram import Histogram, MsbHistogram

#: Sums are kept apart by the upper five bits of their float32 exponent.
SUM_CLASSES = 32


@dataclass(frozen=True)
class TensorStats:
    """Statistics of one tensor; two of them merge into that of the joined data.

    Args:
        low: minimum, +inf when nothing was seen.
        high: maximum, -inf when nothing was seen.
        count: how many values.
        histogram: distribution of values, None when not asked for.
        msb: distribution of most-significant bits, None when not asked for.
    """

    low: float = float("inf")
    high: float = float("-inf")
    count: int = 0
    histogram: Histogram | None = None
    msb: MsbHistogram | None = None

    @staticmethod
    def empty(*, histograms: bool) -> TensorStats:
        """Statistics of nothing, ready to count."""
        if not histograms:
            return TensorStats()
        return TensorStats(histogram=Histogram.empty(), msb=MsbHistogram.empty())

    def merged(self, other: TensorStats) -> TensorStats:
        """Statistics of both tensors' values together."""
        return TensorStats(
            min(self.low, other.low),
            max(self.high, other.high),
            self.count + other.count,
            self.histogram.merged(other.histogram) if self.histogram and other.histogram else None,
            self.msb.merged(other.msb) if self.msb and other.msb else None,
        )

    def seeing(self, values: NDArray[Any]) -> TensorStats:
        """Statistics with an array's values counted; NaN and infinity show in `low` and `high`, and are not binned."""
        if values.size == 0:
            return self
        # Adding zero turns -0 into 0: which of the two is the minimum would depend on the order.
        low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
        # min and max of anything with a NaN are NaN; Python's min() would hide it depending on the order.
        low, high = float(np.minimum(self.low, low)), float(np.maximum(self.high, high))
        histogram, msb = self.histogram, self.msb
        if histogram is not None and msb is not None and np.isfinite(low) and np.isfinite(high):
            single = values.astype(np.float32, copy=False)
            histogram, msb = histogram.counting(single), msb.counting(single)
        return TensorStats(low, high, self.count + values.size, histogram, msb)


@dataclass(frozen=True)
class ChannelSums:
    """Sums per channel that add up to the same bits in any order.

    Each pass's sum is rounded to float32 and kept with those of its size, in classes eight powers of two apart. In
    float64 the numbers of a class add up without rounding: 24 bits each and 8 powers of two leave room for two
    million passes. Only the mean rounds, once.

    Args:
        classes: shape (32, channels).
        count: values per channel.
    """

    classes: NDArray[np.float64]
    count: int

    def merged(self, other: Self) -> Self:
        """Sums of both."""
        return type(self)(self.classes + other.classes, self.count + other.count)

    def mean(self) -> NDArray[np.float64] | None:
        """Mean per channel, None when nothing was seen."""
        # Small ones first, always in the same order.
        return self.classes.sum(axis=0) / self.count if self.count else None
