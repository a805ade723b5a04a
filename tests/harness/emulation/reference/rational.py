"""Arrays of rational numbers: whole numerators times a power of two, over whole denominators; nothing is ever rounded.

Numerators are int64 while a bound proves that 63 bits hold them, and Python integers from there on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[Any]  # int64, or object holding Python integers
Mode = Literal["half-up", "half-away", "half-even"]
LIMIT = 2**62


def _one() -> Whole:
    return np.ones((), np.int64)


@dataclass(frozen=True, eq=False)
class Exact:
    """An array of real numbers.

    Args:
        numerators: whole numbers.
        exponent: of the 2 that all of them are multiplied by.
        denominators: positive whole numbers, broadcast to the numerators.
        levels: integer type, where the array is the dequantized form of 8-bit integers; else None.
    """

    numerators: Whole
    exponent: int = 0
    denominators: Whole = field(default_factory=_one)
    levels: np.dtype[Any] | None = None

    @property
    def whole(self) -> bool:
        """No denominators."""
        return self.denominators.ndim == 0 and int(self.denominators) == 1

    def float32(self) -> NDArray[np.float32]:
        """The nearest float32 of each number (exact for what 8-bit integers stand for)."""
        top = np.asarray(self.numerators, np.float64)
        result: NDArray[np.float32] = (np.ldexp(top, self.exponent) / np.asarray(self.denominators, np.float64)).astype(
            np.float32
        )
        return result


def largest(values: Whole) -> int:
    """The largest magnitude; 0 of an empty array."""
    return max(int(values.max()), -int(values.min())) if values.size else 0


def times(values: Whole, factor: Whole | int) -> Whole:
    """Product of whole numbers, broadcast."""
    other = np.asarray(factor, object) if isinstance(factor, int) and abs(factor) >= LIMIT else np.asarray(factor)
    if largest(values) * largest(other) >= LIMIT:
        return np.asarray(values.astype(object) * other.astype(object))
    return np.asarray(values * other)


def plus(left: Whole, right: Whole) -> Whole:
    """Sum of whole numbers, broadcast."""
    if largest(left) + largest(right) >= LIMIT:
        return np.asarray(left.astype(object) + right.astype(object))
    return np.asarray(left + right)


def dyadic(number: float) -> tuple[int, int]:
    """A finite float as an odd whole number (or 0) and the exponent of its 2."""
    mantissa, exponent = math.frexp(float(number))
    whole = int(mantissa * 2**53)
    if whole == 0:
        return 0, 0
    shift = (whole & -whole).bit_length() - 1
    return whole >> shift, exponent - 53 + shift


def of_floats(values: NDArray[Any]) -> Exact:
    """The exact value of each finite float."""
    pairs = [dyadic(value) for value in np.ravel(values).tolist()]
    low = min((exponent for mantissa, exponent in pairs if mantissa), default=0)
    wide = [mantissa << max(exponent - low, 0) for mantissa, exponent in pairs]
    fits = all(abs(number) < LIMIT for number in wide)
    return Exact(np.array(wide, np.int64 if fits else object).reshape(values.shape), low)


def scaled(values: NDArray[Any], steps: NDArray[Any]) -> Exact:
    """Integers times their steps, broadcast."""
    step = of_floats(steps)
    return Exact(times(values.astype(np.int64), step.numerators), step.exponent)


def _raised(numbers: Exact, exponent: int) -> Whole:
    return times(numbers.numerators, 1 << (numbers.exponent - exponent))


def _aligned(left: Exact, right: Exact) -> tuple[Whole, Whole, int, Whole]:
    """Numerators of both over one exponent and one denominator."""
    exponent = min(left.exponent, right.exponent)
    one, other = _raised(left, exponent), _raised(right, exponent)
    if left.whole and right.whole:
        return one, other, exponent, _one()
    both = times(left.denominators, right.denominators)
    return times(one, right.denominators), times(other, left.denominators), exponent, both


def add(left: Exact, right: Exact) -> Exact:
    """left + right."""
    one, other, exponent, below = _aligned(left, right)
    return Exact(plus(one, other), exponent, below)


def negative(numbers: Exact) -> Exact:
    """-numbers."""
    return replace(numbers, numerators=-numbers.numerators, levels=None)


def multiply(left: Exact, right: Exact) -> Exact:
    """left times right."""
    return Exact(
        times(left.numerators, right.numerators),
        left.exponent + right.exponent,
        times(left.denominators, right.denominators),
    )


def divide(numbers: Exact, counts: Whole) -> Exact:
    """Numbers over positive whole counts, broadcast."""
    return replace(numbers, denominators=times(numbers.denominators, counts), levels=None)


def clamp(numbers: Exact, low: float, high: float) -> Exact:
    """min(max(number, low), high); infinite bounds bind nothing."""
    for bound, pick in ((low, np.maximum), (high, np.minimum)):
        if math.isfinite(bound):
            one, other, exponent, below = _aligned(numbers, of_floats(np.asarray(bound)))
            numbers = Exact(np.asarray(pick(one, other)), exponent, below)
    return numbers


def where_negative(numbers: Exact, negatives: Exact) -> Exact:
    """The numbers, those below 0 taken from the other array."""
    one, other, exponent, below = _aligned(numbers, negatives)
    return Exact(np.where(one < 0, other, one), exponent, below)


def rounded(numbers: Exact, step: float, mode: Mode, kind: np.dtype[Any]) -> NDArray[Any]:
    """clip(R(number / step)) as integers of that type: the page's one rounding, by floor division of whole numbers."""
    mantissa, power = dyadic(step)
    shift = numbers.exponent - power
    top = times(numbers.numerators, 1 << max(shift, 0))
    below = times(times(numbers.denominators, mantissa), 1 << max(-shift, 0))
    twice, both = times(top, 2), times(below, 2)
    if mode == "half-up":
        result = plus(twice, below) // both
    elif mode == "half-away":
        result = np.sign(twice) * (plus(np.abs(twice), below) // both)
    else:
        result = plus(twice, below) // both
        tie = plus(twice, below) - times(np.asarray(result), both) == 0
        result = np.where(tie & (result % 2 != 0), result - 1, result)
    info = np.iinfo(kind)
    return np.asarray(np.minimum(np.maximum(result, info.min), info.max)).astype(kind)
