"""Histograms that can be added: the same values give the same counts whatever their order or partition.

Two kinds. `Histogram` has bins of equal width, a power of two, anchored at zero: when a value falls outside,
neighbouring bins merge in pairs and the width doubles, so that any two histograms can be brought to one
width exactly. Its bin of x is floor(|x| / width) on the side of x's sign; the division by a power of two is
exact, so no rounding depends on the moment at which a value arrived. `MsbHistogram` counts most-significant
bits: one bin per power of two, the dynamic range that a number format has to cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.quantize.pattern import EXPONENTS, HALF_BINS, MIN_EXPONENT, SIDE

Counts = NDArray[np.int64]

#: Values are counted in pieces that stay in the processor's cache.
_PIECE = 1 << 16
#: Bits of a float32's sign and exponent, and the bias of the latter.
_EXPONENT_BINS = 512
_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of width 2^e, mirrored about zero.

    [k·2^e, (k+1)·2^e) for values ≥ 0, and (-(k+1)·2^e, -k·2^e] for values below, k = 0 … 1023.

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
        return 2.0 ** (self.exponent if self.exponent is not None else MIN_EXPONENT)

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

    def counting(self, values: NDArray[np.float32]) -> Histogram:
        """This histogram with more finite float32 values counted; streams are counted by `kernels` to the same bits."""
        magnitudes = np.abs(values.reshape(-1))
        exponent = needed_exponent(float(magnitudes.max(initial=0)))
        zeros = magnitudes.size - int(np.count_nonzero(magnitudes))
        if exponent is None:
            counts = self.counts.copy()
            counts[HALF_BINS] += zeros
            return Histogram(self.exponent, counts, self.zeros + zeros)
        wide = exponent if self.exponent is None else max(exponent, self.exponent)
        # Times a power of two: exact, or so small that its bin is the first in any case.
        bins = (magnitudes * np.float32(2.0**-wide)).astype(np.intp)
        bins = np.where(values.reshape(-1) < 0, HALF_BINS - 1 - bins, HALF_BINS + bins)
        counts = self.widened(wide).counts + np.bincount(bins, minlength=2 * HALF_BINS)
        return Histogram(wide, counts, self.zeros + zeros)


def needed_exponent(magnitude: float) -> int | None:
    """Smallest width exponent whose 1024 bins hold `magnitude`, the largest |x|; None when it is zero."""
    if magnitude == 0:
        return None
    # frexp gives magnitude < 2^x, so floor(magnitude / 2^(x-10)) ≤ 1023.
    return max(int(np.frexp(magnitude)[1]) - 10, MIN_EXPONENT)


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


def from_slots(table: Counts, exponent: int | None) -> tuple[Histogram, MsbHistogram]:
    """Both histograms of a tensor from the slots that its values were counted in.

    Args:
        table: shape (`pattern.SLOTS`,).
        exponent: of the bins' width; None while nothing but zeros was seen.
    """
    plus, minus = table[:SIDE], table[SIDE:]
    zeros = int(plus[-1] + minus[-1])
    counts = np.concatenate([minus[HALF_BINS - 1 :: -1], plus[:HALF_BINS]])
    bits = []
    for side in (plus, minus):
        msb = side[HALF_BINS : HALF_BINS + EXPONENTS].copy()
        if exponent is not None:
            tops = np.frexp(np.arange(1, HALF_BINS))[1] - 1 + exponent + _EXPONENT_BIAS
            msb += np.bincount(tops, side[1:HALF_BINS], minlength=EXPONENTS).astype(np.int64)
        bits.append(msb)
    counts[HALF_BINS] = plus[HALF_BINS:].sum() + minus[-1]
    counts[HALF_BINS - 1] = minus[HALF_BINS:-1].sum()
    return Histogram(exponent, counts, zeros), MsbHistogram(bits[0], bits[1], zeros)


def msb_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """Most significant bit t of each value, 2^t ≤ |x| < 2^(t+1), by `frexp`; x ≠ 0 and finite."""
    return np.frexp(np.abs(values.astype(np.float64)))[1].astype(np.int64) - 1
