"""From statistics to scale and zero point.

Ranges come from the whole extent (`minmax`) or from a clipped one (`percentile`, `mse`, `entropy`), or from the
window of most-significant bits (`histogram`); then the environment's type turns a range into integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.histogram import MsbHistogram
from harness.quantize.observe import TensorStats
from harness.quantize.rulebooks.rules import ActivationType, Rounding, Sign
from harness.quantize.thresholds import clipped_range, position_by_error

METHODS = ("minmax", "percentile", "mse", "entropy", "histogram")
#: Scale of a tensor that is always zero: anything would do.
_UNIT = 1.0
#: Scales stay where float32 arithmetic handles them as normal numbers with room for 255 steps.
_MIN_EXPONENT, _MAX_EXPONENT = -118, 118
_MIN_SCALE = 2.0**_MIN_EXPONENT
#: p of the coarsest and of the finest power-of-two scale 2^-p.
LOWEST_POSITION, HIGHEST_POSITION = -_MAX_EXPONENT, -_MIN_EXPONENT


@dataclass(frozen=True, slots=True)
class Affine:
    """real = (q - zero_point) · scale, q clipped to [qmin, qmax].

    Args:
        scale: float32.
        zero_point: integer that stands for 0.
        qmin: lowest integer of the type.
        qmax: highest integer of the type.
    """

    scale: np.float32
    zero_point: int
    qmin: int
    qmax: int

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """Integer type."""
        return np.uint8 if self.qmin == 0 else np.int8

    @property
    def low(self) -> float:
        """Smallest real value that can be represented."""
        return (self.qmin - self.zero_point) * float(self.scale)

    @property
    def high(self) -> float:
        """Largest real value that can be represented."""
        return (self.qmax - self.zero_point) * float(self.scale)

    def quantize(self, values: NDArray[Any], rounding: Rounding = Rounding.HALF_EVEN) -> NDArray[Any]:
        """Integers of real values, saturating."""
        scaled = round_to_integers(np.asarray(values, np.float64) / float(self.scale), rounding) + self.zero_point
        return np.clip(scaled, self.qmin, self.qmax).astype(self.dtype)


def round_to_integers(values: NDArray[np.float64], rounding: Rounding) -> NDArray[np.float64]:
    """Round by the environment's rule for ties."""
    if rounding is Rounding.HALF_EVEN:
        result: NDArray[np.float64] = np.rint(values)
        return result
    if rounding is Rounding.HALF_AWAY:
        away: NDArray[np.float64] = np.copysign(np.floor(np.abs(values) + 0.5), values)
        return away
    up: NDArray[np.float64] = np.floor(values + 0.5)
    return up


def activation_scale(
    stats: TensorStats,
    kind: ActivationType,
    method: str,
    *,
    position_search: bool = False,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Affine:
    """Scale and zero point of an activation tensor.

    Args:
        stats: what calibration saw; `method` other than minmax needs its histograms.
        kind: the environment's activation type.
        method: minmax, percentile, mse, entropy or histogram.
        position_search: power-of-two scales by the DPU's search (numerics: fpga).
        bounds: of a Clip fused into the layer that makes the tensor; the representable range stays inside,
            which lets the runtime drop the Clip.

    Raises:
        UserError: the method is unknown, or needs histograms that were not collected.
    """
    check_method(method)
    if stats.count == 0:
        return _affine(_UNIT, 0, unsigned=kind.sign is Sign.UNSIGNED)
    unsigned = kind.sign is Sign.UNSIGNED or (kind.sign is Sign.BY_RANGE and stats.low >= 0)
    if kind.power_of_two:
        return _power_of_two(stats, method, unsigned=unsigned, position_search=position_search)
    low, high = _range(stats, method, unsigned=unsigned)
    if kind.symmetric:
        top = 127
        scale = _float32_scale(max(-low, high) / top)
        # Where kernels want uint8, symmetric is the same range around a zero point in the middle.
        return Affine(np.float32(scale), 128, 0, 255) if unsigned else _affine(scale, 0, unsigned=False)
    return _asymmetric(low, high, bounds)


def constant_scale(values: NDArray[Any], kind: ActivationType) -> Affine:
    """Scale and zero point of a constant operand, from its whole range."""
    return activation_scale(TensorStats.empty(histograms=False).seeing(values), kind, "minmax")


def check_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        UserError: listing the known ones.
    """
    if method not in METHODS:
        msg = f"method {method!r} is unknown; choose one of {', '.join(METHODS)} or auto"
        raise UserError(msg)


def _range(stats: TensorStats, method: str, *, unsigned: bool) -> tuple[float, float]:
    """Clipped range, always holding zero."""
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    if method == "minmax" or (low == 0 and high == 0):
        return low, high
    if method == "histogram":
        step = 2.0 ** msb_window(_msb(stats), unsigned=stats.low >= 0)[1]
        levels = 256 if unsigned and stats.low >= 0 else 128
        return max(low, -levels * step), min(high, (levels - 1) * step)
    if stats.histogram is None:
        raise _no_histograms(method)
    return clipped_range(stats.histogram, low, high, method, symmetric=not unsigned)


def _asymmetric(low: float, high: float, bounds: tuple[float | None, float | None]) -> Affine:
    scale = _float32_scale((high - low) / 255)
    zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
    result = Affine(np.float32(scale), zero_point, 0, 255)
    upper = bounds[1]
    if upper is not None and upper > 0:
        while np.float32((result.qmax - zero_point) * result.scale) > np.float32(upper) >= np.float32(high):
            result = Affine(np.nextafter(result.scale, np.float32(0)), zero_point, 0, 255)
    return result


def _power_of_two(stats: TensorStats, method: str, *, unsigned: bool, position_search: bool) -> Affine:
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    if low == 0 and high == 0:
        return _affine(_UNIT, 0, unsigned=unsigned)
    if method == "histogram":
        return _affine(power_of_two(msb_window(_msb(stats), unsigned=unsigned)[1]), 0, unsigned=unsigned)
    if position_search and method in {"minmax", "mse"}:
        position = fix_position(low, high)
        if method == "mse":
            if stats.histogram is None:
                raise _no_histograms(method)
            position = position_by_error(stats.histogram, position, unsigned=unsigned)
        return _affine(power_of_two(-position), 0, unsigned=unsigned)
    exponent = minmax_exponent(max(-low, high), 8 if unsigned else 7)
    if method == "mse":
        if stats.histogram is None:
            raise _no_histograms(method)
        exponent = -position_by_error(stats.histogram, -exponent, unsigned=unsigned)
    elif method != "minmax":
        low, high = _range(stats, method, unsigned=unsigned)
        exponent = minmax_exponent(max(-low, high), 8 if unsigned else 7)
    return _affine(power_of_two(exponent), 0, unsigned=unsigned)


def power_of_two(exponent: int) -> float:
    """2^exponent, kept where a float32 and its products with 8-bit integers are normal numbers."""
    return float(2.0 ** min(max(exponent, _MIN_EXPONENT), _MAX_EXPONENT))


def _affine(scale: float, zero_point: int, *, unsigned: bool) -> Affine:
    return Affine(np.float32(scale), zero_point, *((0, 255) if unsigned else (-128, 127)))


def _float32_scale(scale: float) -> float:
    return float(np.float32(max(scale, _MIN_SCALE)))


def minmax_exponent(magnitude: float, bits: int) -> int:
    """Smallest k with round(magnitude / 2^k) ≤ 2^bits - 1 (docs/quantization.md); ties round away from zero.

    Args:
        magnitude: largest |x|; 0 gives 0.
        bits: magnitude bits, 7 (int8) or 8 (uint8).
    """
    if magnitude == 0:
        return 0
    exponent = int(np.frexp(magnitude)[1]) - bits
    while math.floor(math.ldexp(magnitude, -exponent) + 0.5) > 2**bits - 1:
        exponent += 1
    while math.floor(math.ldexp(magnitude, -(exponent - 1)) + 0.5) <= 2**bits - 1:
        exponent -= 1
    return exponent


def fix_position(low: float, high: float) -> int:
    """The DPU's fix position before its search: floor(log2(1 / max(low/-128.5, high/127.5))).

    Published in Vitis-AI at b2b227921; a position p is the scale 2^-p. A range without extent gives 0.
    """
    extent = max(low / -128.5, high / 127.5)
    if extent <= 0:
        return 0
    # floor(log2(1/e)) without a logarithm: e = m·2^x with 0.5 ≤ m < 1, so 1/e lies in (2^-x, 2^(1-x)].
    mantissa, exponent = math.frexp(extent)
    return 1 - exponent if mantissa == 0.5 else -exponent


def msb_window(msb: MsbHistogram, *, unsigned: bool) -> tuple[int, int]:
    """The window [t, t-w+1] of bits that holds most values' most-significant bits (docs/quantization.md).

    Ties: fewest overflows, then smallest t.

    Args:
        msb: the dynamic range.
        unsigned: w = 8 magnitude bits instead of 7.

    Returns:
        (highest bit t, lowest bit t - w + 1); the scale is 2 to the latter.
    """
    bits = 8 if unsigned else 7
    counts = msb.counts()
    if not counts:
        return bits - 1, 0
    candidates = []
    for top in range(min(counts), max(counts) + bits):
        covered = sum(count for bit, count in counts.items() if top - bits < bit <= top)
        overflowing = sum(count for bit, count in counts.items() if bit > top)
        candidates.append((-covered, overflowing, top))
    top = min(candidates)[2]
    return top, top - bits + 1


def _msb(stats: TensorStats) -> MsbHistogram:
    if stats.msb is None:
        raise _no_histograms("histogram")
    return stats.msb


def _no_histograms(method: str) -> UserError:
    return UserError(f"method {method!r} needs histograms that this calibration did not collect; calibrate with them")
