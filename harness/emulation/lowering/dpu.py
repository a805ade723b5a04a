"""What the DPU has of its own: limits of its shifts, factors of its average pooling (docs/emulation.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from harness.emulation.lowering.context import Uncovered

#: Height and width of a window → its factor (AMD's public quantizer, nndct_shared).
_FACTORS = {
    (3, 3): Fraction(7, 64),
    (5, 5): Fraction(10, 256),
    (6, 6): Fraction(7, 256),
    (3, 6): Fraction(14, 256),
    (6, 3): Fraction(14, 256),
    (7, 7): Fraction(21, 1024),
    (14, 14): Fraction(21, 4096),
}


def check_weighted(data: int, weight: int, bias: int | None, result: int) -> None:
    """Hold a layer with weights against the compiler's limits.

    Args:
        data: exponent of the input's step, as all of these: step = 2^exponent.
        weight: of the weights.
        bias: of the bias.
        result: of the output.

    Raises:
        Uncovered: beyond them.
    """
    cut = result - data - weight
    if not 0 <= cut <= 16:
        raise Uncovered(f"shift_cut {cut} is outside the DPU's 0..16")
    if bias is not None:
        shift = bias - data - weight
        least = min(0, -(24 - (8 + cut)))
        if not least <= shift <= 16:
            raise Uncovered(f"shift_bias {shift} is outside the DPU's {least}..16")


def check_add(operands: Sequence[int], result: int) -> None:
    """Hold an addition against the compiler's limits; exponents of the steps.

    Raises:
        Uncovered: beyond them.
    """
    finest = min(operands)
    read = [operand - finest for operand in operands]
    if max(read) > 15:
        raise Uncovered(f"shift_read {max(read)} is outside the DPU's 0..15")
    write = result - finest
    if not -15 <= write <= 15:
        raise Uncovered(f"shift_write {write} is outside the DPU's -15..15")


def average_factor(window: tuple[int, ...]) -> Fraction:
    """The dyadic number that the DPU multiplies a window's sum by.

    Args:
        window: its size along each axis, height first.
    """
    if window in _FACTORS:
        return _FACTORS[window]
    count = math.prod(window)
    # ceil(log2(128·n)) shifts are tried
    candidates = [Fraction(round(Fraction(2**t, count)), 2**t) for t in range((128 * count - 1).bit_length())]
    return min(candidates, key=lambda candidate: abs(candidate - Fraction(1, count)))
