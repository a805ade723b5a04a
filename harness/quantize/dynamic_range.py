"""The dynamic-range view of a tensor: its most-significant bits, and what an 8-bit window does to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.histogram import Histogram
from harness.quantize.observe import TensorStats
from harness.quantize.pattern import HALF_BINS
from harness.quantize.rulebooks.rules import Rounding
from harness.quantize.scales import minmax_exponent, msb_window, round_to_integers

Scheme = Literal["MinMax", "Histogram"]


@dataclass(frozen=True)
class DynamicRange:
    """A tensor seen through a power-of-two type.

    Args:
        counts: most significant bit → how many values; rising, empty bins left out.
        zeros: how many values were exactly 0.
        window: (highest, lowest) bit that the type holds; the others are drawn grey.
        scale: 2 to the lowest bit.
        unsigned: the type is uint8 (8 magnitude bits), else int8 (7).
        minimum: smallest value.
        maximum: largest value.
        overflow: values that saturate.
        underflow: values other than 0 that become 0.
        precision_loss: values that change, though neither of the two; None where only counts are known.
    """

    counts: Mapping[int, int]
    zeros: int
    window: tuple[int, int]
    scale: float
    unsigned: bool
    minimum: float
    maximum: float
    overflow: int
    underflow: int
    precision_loss: int | None

    def is_grey(self, bit: int) -> bool:
        """Whether a bin lies outside the window. Grey is not lost: half a step below still rounds to one step."""
        highest, lowest = self.window
        return not lowest <= bit <= highest


def of_values(values: NDArray[Any], scheme: Scheme, *, unsigned: bool | None = None) -> DynamicRange:
    """Dynamic range of a tensor that is known in full (weights, biases): every count is exact.

    Args:
        values: finite real values.
        scheme: MinMax or Histogram (docs/quantization.md).
        unsigned: uint8; None: where no value is negative.
    """
    single = np.asarray(values, np.float32)
    stats = TensorStats.empty(histograms=True).seeing(single)
    view = of_stats(stats, scheme, unsigned=unsigned)
    bottom, top = (0, 255) if view.unsigned else (-128, 127)
    scaled = single.astype(np.float64) / view.scale
    rounded = round_to_integers(scaled, Rounding.HALF_AWAY)
    overflow = (rounded > top) | (rounded < bottom)
    underflow = (rounded == 0) & (single != 0)
    changed = (rounded != scaled) & ~overflow & ~underflow
    return _counted(view, int(overflow.sum()), int(underflow.sum()), int(changed.sum()))


def of_stats(stats: TensorStats, scheme: Scheme, *, unsigned: bool | None = None) -> DynamicRange:
    """Dynamic range of a tensor known by its histograms (activations).

    Raises:
        UserError: the histograms were not collected, or the scheme is unknown.
    """
    if stats.msb is None or stats.histogram is None:
        msg = "this calibration collected no histograms; calibrate with method='auto' or 'histogram'"
        raise UserError(msg)
    if scheme not in {"MinMax", "Histogram"}:
        msg = f"scheme {scheme!r} is neither 'MinMax' nor 'Histogram'"
        raise UserError(msg)
    plain = unsigned if unsigned is not None else stats.low >= 0
    bits = 8 if plain else 7
    if scheme == "Histogram":
        window = msb_window(stats.msb, unsigned=plain)
    else:
        lowest = minmax_exponent(max(abs(stats.low), abs(stats.high)) if stats.count else 0.0, bits)
        window = (lowest + bits - 1, lowest)
    scale = 2.0 ** window[1]
    overflow, underflow = _losses(stats.histogram, scale, unsigned=plain)
    return DynamicRange(
        stats.msb.counts(), stats.msb.zeros, window, scale, plain, stats.low, stats.high, overflow, underflow, None
    )


def _losses(histogram: Histogram, scale: float, *, unsigned: bool) -> tuple[int, int]:
    """Overflows and underflows; exact while a bin is no wider than half a step, else to within a bin."""
    lower = histogram.edges[:-1]
    bottom, top = (0.0, 255.0) if unsigned else (-128.0, 127.0)
    over = (lower >= (top + 0.5) * scale) | (lower < (bottom - 0.5) * scale)
    tiny = (lower >= -0.5 * scale) & (lower < 0.5 * scale)
    if histogram.width > 0.5 * scale:
        tiny[:] = False
        tiny[HALF_BINS] = True
    underflow = int(histogram.counts[tiny].sum()) - histogram.zeros
    return int(histogram.counts[over].sum()), max(underflow, 0)


def _counted(view: DynamicRange, overflow: int, underflow: int, changed: int) -> DynamicRange:
    return DynamicRange(
        view.counts, view.zeros, view.window, view.scale, view.unsigned, view.minimum, view.maximum,
        overflow, underflow, changed,
    )  # fmt: skip
