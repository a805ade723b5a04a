"""Expressions in plain ONNX that are exact by construction: each value knows its bounds and its resolution.

A value is a whole multiple of 2^-bits between two bounds. float32 represents all of them, and all sums of them in
whatever order a kernel takes, while the largest magnitude is at most 2^24 such units, float64 up to 2^53: a value is
held in the first of the two that does, and where neither does, the expression is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

Carrier = Literal["float32", "float64"]

#: Whole numbers up to here have a float of their own: significand of 24 and 53 bits (IEEE 754).
EXACT_UP_TO = {"float32": Fraction(2**24), "float64": Fraction(2**53)}
_ONNX_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
#: Below this a power of two is no normal float32 any more; kernels may flush it to zero.
_FINEST_BITS = 120


class NotExact(Exception):
    """No carrier holds a value exactly; the reason is written for a reader."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a lowered network.

    Args:
        name: of the tensor.
        carrier: its type.
        low: no element is smaller.
        high: no element is larger.
        bits: every element is a whole multiple of 2^-bits.
    """

    name: str
    carrier: Carrier
    low: Fraction
    high: Fraction
    bits: int


def bits_of(number: Fraction | float) -> int:
    """The smallest b for which a dyadic number is a whole multiple of 2^-b; very small for 0."""
    exact = Fraction(number)
    if exact == 0:
        return -_FINEST_BITS
    if exact.denominator & (exact.denominator - 1):
        raise NotExact(f"{float(exact):g} is no whole multiple of a power of two")
    if exact.denominator > 1:
        return exact.denominator.bit_length() - 1
    return -((exact.numerator & -exact.numerator).bit_length() - 1)


def finest(numbers: Sequence[Fraction | float]) -> int:
    """The resolution that all of them share."""
    return max((bits_of(number) for number in numbers), default=-_FINEST_BITS)


def carrier_for(low: Fraction, high: Fraction, bits: int) -> Carrier:
    """The narrowest type that holds every multiple of 2^-bits within the bounds.

    Raises:
        NotExact: there is none.
    """
    units = max(abs(low), abs(high)) * Fraction(2) ** bits
    if bits <= _FINEST_BITS:
        for carrier, limit in EXACT_UP_TO.items():
            if units <= limit:
                return "float32" if carrier == "float32" else "float64"
    raise NotExact(f"its sums need {int(units).bit_length()} bits, beyond the 53 of double precision")


class Expressions:
    """Emits the nodes of exact expressions.

    Args:
        free_name: makes a tensor or node name that is not taken.
    """

    def __init__(self, free_name: Callable[[str], str]) -> None:
        self._free_name = free_name
        self._stem = "value"
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._final: set[str] = set()

    def within(self, stem: str) -> None:
        """Names that follow begin with this."""
        self._stem = stem

    def mark(self) -> int:
        """A place to go `back` to."""
        return len(self.nodes)

    def back(self, mark: int) -> None:
        """Forget the nodes made since; constants that nothing reads are dropped at the end."""
        del self.nodes[mark:]

    def fresh(self, what: str) -> str:
        """A name that is not taken."""
        return self._free_name(f"{self._stem}.{what}")

    def node(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """Emit a node with one output; its name."""
        name = output if output is not None else self._free_name(f"{self._stem}.{op_type}")
        node_name = self._free_name(f"{name}.node")
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), [name], name=node_name, **attributes))
        return name

    def own_array(self, value: NDArray[Any], what: str = "constant") -> str:
        """Name of a constant that nobody else reads, for the sake of optimizers that rewrite it."""
        name = self.fresh(what)
        self.constants[name] = np.ascontiguousarray(value) if value.ndim else value
        return name

    def array(self, value: NDArray[Any], what: str = "constant") -> str:
        """Name of a constant; equal ones are stored once."""
        value = np.ascontiguousarray(value) if value.ndim else value
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self._free_name(f"{self._stem}.{what}")
            self.constants[self._known[key]] = value
        return self._known[key]

    def number(self, value: Fraction | float, carrier: Carrier) -> str:
        """Name of a scalar constant, which its type must hold exactly.

        Raises:
            NotExact: it does not.
        """
        single = np.asarray(float(value), carrier)
        if Fraction(float(single)) != Fraction(value):
            raise NotExact(f"{float(value):g} needs more bits than {carrier} has")
        return self.array(single)

    # --- values ---

    def as_carrier(self, value: Value, carrier: Carrier) -> Value:
        """The same numbers in that type."""
        if value.carrier == carrier:
            return value
        if carrier == "float32" and carrier_for(value.low, value.high, value.bits) != "float32":
            raise NotExact("its values need more than the 24 bits of single precision")
        return replace(value, name=self.node("Cast", [value.name], to=_ONNX_TYPES[carrier]), carrier=carrier)

    def _binary(self, op_type: str, left: Value, right: Value, low: Fraction, high: Fraction, bits: int) -> Value:
        needed = carrier_for(low, high, bits)
        carrier: Carrier = "float64" if "float64" in {needed, left.carrier, right.carrier} else "float32"
        left, right = self.as_carrier(left, carrier), self.as_carrier(right, carrier)
        return Value(self.node(op_type, [left.name, right.name]), carrier, low, high, bits)

    def add(self, left: Value, right: Value) -> Value:
        """The sum, broadcast."""
        return self._binary(
            "Add", left, right, left.low + right.low, left.high + right.high, max(left.bits, right.bits)
        )

    def subtract(self, left: Value, right: Value) -> Value:
        """The difference, broadcast."""
        return self._binary(
            "Sub", left, right, left.low - right.high, left.high - right.low, max(left.bits, right.bits)
        )

    def multiply(self, left: Value, right: Value) -> Value:
        """The product, element by element, broadcast."""
        corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
        return self._binary("Mul", left, right, min(corners), max(corners), left.bits + right.bits)

    def plus(self, value: Value, number: Fraction | float) -> Value:
        """The value plus a number."""
        number = Fraction(number)
        return value if number == 0 else self.add(value, self._scalar(number, value.carrier))

    def times(self, value: Value, number: Fraction | float) -> Value:
        """The value times a number."""
        number = Fraction(number)
        return value if number == 1 else self.multiply(value, self._scalar(number, value.carrier))

    def _scalar(self, number: Fraction, carrier: Carrier) -> Value:
        bits = bits_of(number)
        if carrier == "float32" and Fraction(float(np.float32(float(number)))) != number:
            carrier = "float64"
        return Value(self.number(number, carrier), carrier, number, number, bits)

    def given(self, values: NDArray[np.float64], what: str = "constant") -> Value:
        """A constant array; float32 where that holds it.

        Args:
            values: exact numbers.
            what: for its name.
        """
        flat = [Fraction(float(number)) for number in np.unique(values)]
        low, high = (min(flat), max(flat)) if flat else (Fraction(0), Fraction(0))
        carrier: Carrier = (
            "float32" if np.array_equal(values.astype(np.float32).astype(np.float64), values) else "float64"
        )
        return Value(self.array(values.astype(carrier), what), carrier, low, high, finest(flat))

    def clip(self, value: Value, low: Fraction | float, high: Fraction | float) -> Value:
        """min(max(value, low), high); nothing where the bounds lie outside the value's own."""
        low, high = Fraction(low), Fraction(high)
        if value.low >= low and value.high <= high:
            return value
        bits = max(value.bits, bits_of(low), bits_of(high))
        bounds = [self.number(low, value.carrier), self.number(high, value.carrier)]
        return Value(
            self.node("Clip", [value.name, *bounds]),
            value.carrier,
            min(max(value.low, low), high),
            min(max(value.high, low), high),
            bits,
        )

    def positive(self, value: Value) -> Value:
        """max(value, 0)."""
        if value.low >= 0:
            return value
        return self._side("Max", value, max(value.low, Fraction(0)), max(value.high, Fraction(0)))

    def negative(self, value: Value) -> Value:
        """min(value, 0)."""
        return self._side("Min", value, min(value.low, Fraction(0)), min(value.high, Fraction(0)))

    def _side(self, op_type: str, value: Value, low: Fraction, high: Fraction) -> Value:
        name = self.node(op_type, [value.name, self.number(0, value.carrier)])
        return replace(value, name=name, low=low, high=high)

    def floor(self, value: Value) -> Value:
        """The next whole number below."""
        if value.bits <= 0:
            return value
        return replace(
            value,
            name=self.node("Floor", [value.name]),
            low=Fraction(value.low.__floor__()),
            high=Fraction(value.high.__floor__()),
            bits=0,
        )

    def identity(self, value: Value, name: str) -> Value:
        """The value under a name of its own, in float32."""
        if value.carrier == "float64":
            self.node("Cast", [value.name], name, to=TensorProto.FLOAT)
        elif self.nodes and self.nodes[-1].output[0] == value.name and value.name not in self._final:
            self.nodes[-1].output[0] = name
        else:
            self.node("Identity", [value.name], name)
        self._final.add(name)
        return replace(value, name=name, carrier="float32")
