"""The one rounding of a layer, and what saturates around it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from harness.emulation.exact import Expressions, Value
from harness.quantize.rulebooks.rules import Rounding

HALF = Fraction(1, 2)
#: float32's next number above 1: moves a tie away from zero, and by less than 2^-15 what is below 256.
_AWAY = np.nextafter(np.float32(1), np.float32(2))
#: Up to this resolution a value that is no tie stays on its side of one when multiplied by `_AWAY`.
_AWAY_BITS = 14
#: float32's last number below 1/2: floor(|x| + this) is |x| rounded half away for every float32 below 2^23.
BEFORE_HALF = np.nextafter(np.float32(0.5), np.float32(0))


def rounded(number: Fraction, rounding: Rounding) -> int:
    """A number to the nearest whole one."""
    if rounding is Rounding.HALF_EVEN:
        return round(number)
    if rounding is Rounding.HALF_UP or number >= 0:
        return int((number + HALF).__floor__())
    return -int((-number + HALF).__floor__())


def needs_offset(bits: int, low: int, rounding: Rounding, least: Fraction) -> bool:
    """Whether a value is rounded by adding a half and taking the floor, so that a bias may carry the half.

    Args:
        bits: the value's resolution.
        low: the result's lower bound.
        rounding: of the layer.
        least: lower bound of the value.
    """
    if bits <= 0 or rounding is Rounding.HALF_EVEN:
        return False
    return rounding is Rounding.HALF_UP or low >= 0 or least >= 0


def finish(
    expressions: Expressions,
    value: Value,
    low: int,
    high: int,
    rounding: Rounding,
    name: str,
    *,
    has_offset: bool = False,
) -> Value:
    """clip(R(value)) as float32 whole numbers called `name`.

    Args:
        expressions: where nodes go.
        value: in steps of the result.
        low: lower bound of the result.
        high: upper bound of the result.
        rounding: half-up or half-away.
        name: of the result.
        has_offset: the value is a half larger already.

    Raises:
        NotExact: the half can no longer be added exactly.
    """
    if value.bits <= 0:
        result = expressions.clip(value, low, high)
    elif has_offset or needs_offset(value.bits, low, rounding, value.low):
        # Clip before Floor: the runtime computes a Clip on a convolution's way out, and Floor is the only pass.
        shifted = value if has_offset else expressions.plus(value, HALF)
        result = expressions.floor(expressions.clip(shifted, low, high + Fraction(3, 4)))
    else:
        result = _half_away(expressions, expressions.clip(value, low, high))
    result = expressions.clip(result, low, high)
    return expressions.identity(result, name)


def _half_away(expressions: Expressions, value: Value) -> Value:
    """Rounded half away from zero, below 256 in magnitude."""
    low, high = (Fraction(rounded(bound, Rounding.HALF_AWAY)) for bound in (value.low, value.high))
    if value.carrier == "float32" and value.bits <= _AWAY_BITS and max(abs(value.low), abs(value.high)) < 256:
        moved = expressions.node("Mul", [value.name, expressions.array(np.asarray(_AWAY))])
        return Value(expressions.node("Round", [moved]), "float32", low, high, 0)
    largest = max(abs(value.low), abs(value.high))
    size = Value(expressions.node("Abs", [value.name]), value.carrier, Fraction(0), largest, value.bits)
    whole = expressions.floor(expressions.plus(size, HALF))
    sign = expressions.node("Sign", [value.name])
    if whole.carrier != value.carrier:
        sign = expressions.as_carrier(Value(sign, value.carrier, Fraction(-1), Fraction(1), 0), whole.carrier).name
    return Value(expressions.node("Mul", [whole.name, sign]), whole.carrier, low, high, 0)


def enter(expressions: Expressions, tensor: str, exponent: int, low: int, high: int, name: str) -> None:
    """A float32 tensor becomes integers, rounded half away; infinities saturate.

    Args:
        expressions: where nodes go.
        tensor: float32.
        exponent: the step is 2^exponent.
        low: smallest integer.
        high: largest integer.
        name: of the result.
    """
    scaled = tensor
    rest = -exponent
    while rest:  # 2^p itself may lie beyond float32
        part = max(-100, min(100, rest))
        scaled = expressions.node("Mul", [scaled, expressions.number(Fraction(2) ** part, "float32")])
        rest -= part
    bounds = [expressions.number(Fraction(bound), "float32") for bound in (low, high)]
    clipped = expressions.node("Clip", [scaled, *bounds])
    size = expressions.node("Abs", [clipped])
    whole = expressions.node("Floor", [expressions.node("Add", [size, expressions.array(np.asarray(BEFORE_HALF))])])
    expressions.node("Mul", [whole, expressions.node("Sign", [clipped])], name)
