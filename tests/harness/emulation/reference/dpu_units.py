"""What docs/emulation.md says of the DPU alone: factors of average pooling, and the shifts that its compiler takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

_PUBLISHED: dict[tuple[int, ...], Fraction] = {
    (3, 3): Fraction(7, 64),
    (5, 5): Fraction(10, 256),
    (6, 6): Fraction(7, 256),
    (3, 6): Fraction(14, 256),
    (6, 3): Fraction(14, 256),
    (7, 7): Fraction(21, 1024),
    (14, 14): Fraction(21, 4096),
}


def pooling_factor(window: Sequence[int]) -> Fraction:
    """What the DPU multiplies the sum of such a window by."""
    found = _PUBLISHED.get(tuple(window))
    if found is not None:
        return found
    count = math.prod(window)
    best = Fraction(0)
    for t in range(math.ceil(math.log2(128 * count))):
        # round() of a Fraction takes ties to even.
        factor = Fraction(round(Fraction(2**t, count)), 2**t)
        if t == 0 or abs(factor - Fraction(1, count)) < abs(best - Fraction(1, count)):
            best = factor
    return best


def weighted_fits(into: int, weights: int, bias: int | None, out: int) -> bool:
    """Whether the compiler takes a weighted layer with these positions."""
    cut = into + weights - out
    if not 0 <= cut <= 16:
        return False
    return bias is None or min(0, -(24 - (8 + cut))) <= into + weights - bias <= 16


def sum_fits(operands: Sequence[int], out: int) -> bool:
    """Whether the compiler takes a sum of operands at these positions."""
    finest = max(operands)
    return all(finest - position <= 15 for position in operands) and -15 <= finest - out <= 15
