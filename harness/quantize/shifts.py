"""Positions of power-of-two steps, and how far apart a board's shifts let them be.

A step 2^-p has the position p: a finer step has a higher one. A layer whose input, weights, bias and result stand at
ip, wp, bp and op adds products at ip + wp, moves the bias up by shift_bias = ip + wp - bp to meet them, and cuts
shift_cut = ip + wp - op bits off the sum (docs/emulation.md, 'The DPU's shifts').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from harness.quantize.rulebooks.rules import ShiftLimits

#: Operators that multiply two operands of 8 bits; HardSwish multiplies its input by the hard sigmoid of it.
PRODUCTS = frozenset({"Mul", "MatMul", "HardSwish"})
#: Operators that add two operands of 8 bits.
SUMS = frozenset({"Add", "Sub"})
#: Of the hard sigmoid inside HardSwish.
GATE_POSITION = 7


def position_of(scale: SupportsFloat) -> int:
    """The p of a step 2^-p."""
    return 1 - math.frexp(float(scale))[1]


@dataclass(frozen=True, slots=True)
class LayerShifts:
    """What a layer's input and result leave to its weights and bias.

    Args:
        limits: the board's.
        input: position of its input.
        output: position of its result; None where that is float.
    """

    limits: ShiftLimits
    input: int
    output: int | None

    def weight(self, wanted: int | None, bias: int | None) -> int:
        """Position of the weights.

        Args:
            wanted: the best one without limits; None: any (all weights are zero).
            bias: the best one of the bias without limits; None without a bias, or for one of zeros.
        """
        low, high = self._weights(bias)
        start = 0 if wanted is None else wanted
        if high is not None:
            start = min(start, high)
        return start if low is None else max(start, low)

    def finest_weight(self, bias: int | None) -> int | None:
        """The highest position that weights can have beside a bias; None: any."""
        return self._weights(bias)[1]

    def bias(self, wanted: int | None, weight: int) -> int:
        """Position of the bias; higher than wanted, so that it saturates, only where no weights' position would help.

        Args:
            wanted: the best one without limits; None: any (the bias is all zero).
            weight: position of the weights.
        """
        low = self.input + weight - self.limits.bias
        start = low if wanted is None else max(wanted, low)
        return start if self.output is None else min(start, self._finest_bias(self.output))

    def bias_fits(self, wanted: int | None, weight: int) -> bool:
        """Whether a bias keeps its range beside weights of this position."""
        return wanted is None or self.bias(wanted, weight) <= wanted

    def _weights(self, bias: int | None) -> tuple[int | None, int | None]:
        """(lowest, highest) position."""
        if self.output is None:
            return None, None if bias is None else bias + self.limits.bias - self.input
        high = self.output + self.limits.cut - self.input
        if bias is not None:
            high = min(high, min(bias, self._finest_bias(self.output)) + self.limits.bias - self.input)
        return self.output - self.input, high

    def _finest_bias(self, output: int) -> int:
        """From shift_bias ≥ -(accumulator - 8 - shift_cut), where shift_cut = ip + wp - op drops out."""
        return output + self.limits.accumulator - 8


def operand_positions(limits: ShiftLimits, op_type: str, operands: Sequence[int], result: int | None) -> list[int]:
    """Positions at which a sum or product can take its two operands, each as high as possible; of a product the first.

    Args:
        limits: the board's.
        op_type: of the layer.
        operands: positions of both.
        result: position of the result; None where that is float.
    """
    if op_type in SUMS:
        highest = min(operands) + limits.read
        if result is not None:
            highest = min(highest, result + limits.write)
        return [min(position, highest) for position in operands]
    first, second = operands
    return [first if result is None else min(first, result + limits.cut - second), second]


def finest_result(limits: ShiftLimits, op_type: str, operands: Sequence[int]) -> int:
    """The highest position that the result of a sum or product can have."""
    if op_type in SUMS:
        return min(max(operands), min(operands) + limits.read) + limits.write
    return sum(operands)
