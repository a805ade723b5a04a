"""What the lowering of every layer shares: the graph, the arithmetic, what is known of each integer tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from harness.emulation.arithmetic import Arithmetic
from harness.emulation.exact import Carrier, Expressions, Value
from harness.emulation.integer_network import Constant, Layer, Operand, QuantizedTensor
from harness.quantize.graph import Graph


class Uncovered(Exception):
    """Why a layer is computed in software, for a reader."""


@dataclass
class Context:
    """The state of one lowering.

    Args:
        graph: the quantized network, types inferred.
        arithmetic: whose numbers.
        expressions: where nodes go.
        bounds: integer tensor → its smallest and largest integer.
        moved: node that only moves values → the names of its moved outputs.
    """

    graph: Graph
    arithmetic: Arithmetic
    expressions: Expressions
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    moved: dict[str, dict[int, str]] = field(default_factory=dict)

    def value(self, tensor: QuantizedTensor) -> Value:
        """The integers of a tensor."""
        low, high = self.bounds[tensor.name]
        return Value(tensor.name, "float32", Fraction(low), Fraction(high), 0)

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Shape of a tensor of the quantized network.

        Raises:
            Uncovered: not even its rank is known.
        """
        found = self.graph.shape(tensor)
        if found is None:
            raise Uncovered(f"the shape of {tensor!r} is not known before it runs")
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """A lowered layer: bounds of its integers, and what held its sums."""

    low: int
    high: int
    carrier: Carrier | None = None
    software: str | None = None


def exponent(operand: Operand) -> int:
    """The e of the step 2^e of a tensor, or of a constant with one step.

    Raises:
        Uncovered: the step is no power of two, or there are several.
    """
    if isinstance(operand, QuantizedTensor):
        found = operand.exponent
        if found is None:
            raise Uncovered(f"the step {operand.step:g} of {operand.name!r} is no power of two")
        return found
    several = exponents(operand)
    if len(set(several)) != 1:
        raise Uncovered(f"{operand.name!r} has several steps")
    return several[0]


def exponents(constant: Constant) -> list[int]:
    """The e of each step 2^e of a constant.

    Raises:
        Uncovered: a step is no power of two.
    """
    found = constant.exponents()
    if found is None:
        raise Uncovered(f"a step of {constant.name!r} is no power of two")
    return [int(number) for number in found.reshape(-1)]


def only_tensor(layer: Layer, slot: int = 0) -> QuantizedTensor:
    """The activations in a slot.

    Raises:
        Uncovered: a constant stands there.
    """
    operand = layer.operands[slot]
    if not isinstance(operand, QuantizedTensor):
        raise Uncovered("its data operand is a constant")
    return operand
