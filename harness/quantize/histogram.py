"""Histograms that can be added: the same values give the same counts whatever their order or partition.

Two kinds. `Histogram` has bins of equal width, a power of two, anchored at zero: when a value falls outside,
neighbouring bins merge in pairs and the width doubles, so that any two histograms can be brought to one
width exactly. Its bin of x is floor(x / width); the division by a power of two is exact, so no rounding
depends on the moment at which a value arrived. `MsbHistogram` counts most-significant bits: one bin per
power of two, the dynamic range that a number format has to cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

#: Bins on each side of zero. 1024 positive bins keep 4 bins for each of the 256 levels of a full range.
HALF_BINS = 1024
#: Values are counted in pieces that stay in the processor's cache.
_PIECE = 1 << 16
#: Narrowest bin: 2^-140 x 1024 is still a normal float32.
_MIN_EXPONENT = -126
#: Bits of a float32's sign and exponent, and the bias of the latter.
_EXPONENT_BINS = 512
_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins [k·2^e, (k+1)·2^e), k = -1024 … 1023.

    Args:
        exponent: e, the width's power of two; None while nothing but zeros was seen.
        counts: shape (2048,), int64.
        zeros: how many values were exactly 0 (also counted in their bin).
    """

    exponent: int | None
    counts: Counts
    zeros: int = 0

    @staticmethod
    def empty() -> Histogram:
        """A histogram of nothing."""
        return Histogram(None, np.zeros(2 * HALF_BINS, np.int64))

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0 ** (self.exponent if self.exponent is not None else _MIN_EXPONENT)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The 2049 bin edges."""
        return np.arange(-HALF_BINS, HALF_BINS + 1, dtype=np.float64) * self.width

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def widened(self, exponent: int) -> Histogram:
        """The same counts at a coarser width; exact, because edges of the coarse bins are edges of the fine ones."""
        if self.exponent is None:
            return Histogram(exponent, self.counts, self.zeros)
        steps = exponent - self.exponent
        if steps <= 0:
            return self
        bins = np.arange(-HALF_BINS, HALF_BINS) >> min(steps, 40)
        counts = np.zeros_like(self.counts)
        np.add.at(counts, bins + HALF_BINS, self.counts)
        return Histogram(exponent, counts, self.zeros)

    def merged(self, other: Histogram) -> Histogram:
        """Counts of both, at the coarser of the two widths."""
        if other.exponent is None or self.exponent is None:
            wide = self.exponent if other.exponent is None else other.exponent
            return Histogram(wide, self.counts + other.counts, self.zeros + other.zeros)
        wide = max(self.exponent, other.exponent)
        counts = self.widened(wide).counts + other.widened(wide).counts
        return Histogram(wide, counts, self.zeros + other.zeros)

    def counting(self, values: NDArray[np.float32], low: float, high: float) -> Histogram:
        """This histogram with more values counted.

        Args:
            values: finite float32 values, any shape.
            low: their minimum.
            high: their maximum.
        """
        exponent = needed_exponent(low, high)
        if exponent is None:
            count = values.size
            counts = self.counts.copy()
            counts[HALF_BINS] += count
            return Histogram(self.exponent, counts, self.zeros + count)
        wide = exponent if self.exponent is None else max(exponent, self.exponent)
        start = self.widened(wide)
        counts, zeros = count_bins(values, wide, non_negative=low >= 0)
        return Histogram(wide, start.counts + counts, self.zeros + zeros)


def needed_exponent(low: float, high: float) -> int | None:
    """Smallest width exponent whose bins -1024 … 1023 hold [low, high]; None when both are zero."""
    magnitude = max(abs(low), abs(high))
    if magnitude == 0:
        return None
    exponent = max(int(np.frexp(magnitude)[1]) - 10, _MIN_EXPONENT)
    # frexp gives magnitude < 2^x, so floor(high/2^(x-10)) ≤ 1023, and -2^x itself is bin -1024.
    if low < 0 and abs(low) >= high and np.frexp(magnitude)[0] == 0.5 and exponent > _MIN_EXPONENT:
        narrower = exponent - 1
        if np.floor(np.ldexp(high, -narrower)) < HALF_BINS:
            return narrower
    return exponent


def count_bins(values: NDArray[np.float32], exponent: int, *, non_negative: bool) -> tuple[Counts, int]:
    """Counts per bin, and how many values are exactly zero.

    Args:
        values: finite float32 values that fit the bins.
        exponent: power of two of the bin width.
        non_negative: no value is below zero (truncation then equals floor, which saves a pass).
    """
    flat = values.reshape(-1)
    counts = np.zeros(2 * HALF_BINS, np.int64)
    factor = np.float32(2.0**-exponent)
    scaled = np.empty(min(_PIECE, flat.size), np.float32)
    zeros = flat.size - int(np.count_nonzero(flat))
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        part = np.multiply(piece, factor, out=scaled[: piece.size])
        if non_negative:
            counts[HALF_BINS:] += np.bincount(part.astype(np.intp), minlength=HALF_BINS)
        else:
            np.floor(part, out=part)
            if exponent > 0:
                # Tiny negative numbers underflow to -0 here; their bin is -1 all the same.
                part[(piece < 0) & (part == 0)] = -1
            part += HALF_BINS  # small integers: exact
            counts += np.bincount(part.astype(np.intp), minlength=2 * HALF_BINS)
    return counts, zeros


@dataclass(frozen=True)
class MsbHistogram:
    """Counts of most-significant bits: value x ≠ 0 falls in bin t with 2^t ≤ |x| < 2^(t+1).

    Args:
        positive: shape (256,), int64; index t + 127 for normal numbers, 0 holds what is below 2^-126.
        negative: the same for negative values.
        zeros: how many values were exactly 0.
    """

    positive: Counts
    negative: Counts
    zeros: int = 0

    @staticmethod
    def empty() -> MsbHistogram:
        """A histogram of nothing."""
        return MsbHistogram(np.zeros(256, np.int64), np.zeros(256, np.int64))

    def merged(self, other: MsbHistogram) -> MsbHistogram:
        """Counts of both."""
        return MsbHistogram(self.positive + other.positive, self.negative + other.negative, self.zeros + other.zeros)

    def counting(self, values: NDArray[np.float32]) -> MsbHistogram:
        """This histogram with more finite values counted."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        counts = np.zeros(_EXPONENT_BINS, np.int64)
        for start in range(0, flat.size, _PIECE):
            # Sign and exponent are the top nine bits of a float32: no logarithm, no rounding.
            counts += np.bincount(flat[start : start + _PIECE].view(np.uint32) >> 23, minlength=_EXPONENT_BINS)
        zeros = flat.size - int(np.count_nonzero(flat))
        # A float32 with exponent 0 is zero or subnormal; only -0.0 could be counted as negative.
        negative_zeros = int(np.count_nonzero(np.signbit(flat[flat == 0]))) if counts[256] else 0
        counts[0] -= zeros - negative_zeros
        counts[256] -= negative_zeros
        return MsbHistogram(self.positive + counts[:256], self.negative + counts[256:], self.zeros + zeros)

    def counts(self) -> dict[int, int]:
        """Bin t → how many values have their most significant bit there; empty bins left out, rising t.

        Values below 2^-126 (subnormal) are given bin -127.
        """
        both = self.positive + self.negative
        return {int(index) - _EXPONENT_BIAS: int(both[index]) for index in np.flatnonzero(both)}


def msb_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """Most significant bit t of each value, 2^t ≤ |x| < 2^(t+1), by `frexp`; x ≠ 0 and finite."""
    return np.frexp(np.abs(values.astype(np.float64)))[1].astype(np.int64) - 1
