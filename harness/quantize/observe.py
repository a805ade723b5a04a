"""What is remembered of a tensor while data streams past: never more than a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.quantize.histogram import Histogram, MsbHistogram


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
        """Statistics with more values counted; NaN and infinity show in `low` and `high`, and are not binned."""
        if values.size == 0:
            return self
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)) or self.histogram is None or self.msb is None:
            # min and max of anything with a NaN are NaN; Python's min() would hide it depending on the order.
            return TensorStats(
                _least(self.low, low), _most(self.high, high), self.count + values.size, self.histogram, self.msb
            )
        return TensorStats(
            min(self.low, low),
            max(self.high, high),
            self.count + values.size,
            self.histogram.counting(values, low, high),
            self.msb.counting(values),
        )


def _least(first: float, second: float) -> float:
    return float(np.minimum(first, second))


def _most(first: float, second: float) -> float:
    return float(np.maximum(first, second))


class ChannelSums:
    """Running sum per channel, for the mean of each.

    Args:
        axis: the channel axis of the tensor.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._sum: NDArray[np.float64] | None = None
        self._count = 0

    def add(self, values: NDArray[Any]) -> None:
        """Count more values; the channel count must not change."""
        axis = self.axis % values.ndim
        others = tuple(index for index in range(values.ndim) if index != axis)
        sums = values.sum(axis=others, dtype=np.float64)
        self._sum = sums if self._sum is None else self._sum + sums
        self._count += values.size // max(values.shape[axis], 1)

    def mean(self) -> NDArray[np.float64] | None:
        """Mean per channel, None when nothing was seen."""
        return None if self._sum is None or not self._count else self._sum / self._count
