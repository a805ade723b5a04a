"""Activation functions: as bounds of the result, as exact expressions, and as tables of 8-bit inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from harness.emulation.exact import Carrier, Value
from harness.emulation.integer_network import Layer
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent, only_tensor
from harness.emulation.lowering.rounding import HALF, finish, needs_offset, rounded
from harness.quantize.graph import attribute
from harness.quantize.rulebooks.rules import Rounding

#: Functions that are a clip: they commute with rounding.
CLIPS = frozenset({"Relu", "Clip"})
#: The DPU's LeakyReLU slope and hard-sigmoid factor (docs/emulation.md; AMD's nndct_shared).
DPU_SLOPE = Fraction(26, 256)
DPU_SIXTH = Fraction(2731, 16384)
_SIXTH = Fraction(float(np.float32(1) / np.float32(6)))
_ZERO = Fraction(0)
#: How far factors may be from 1/6 and 1/2: exporters write six digits at least.
_TOLERANCE = Fraction(1, 10_000)
#: Splits a double into two halves of 26 bits (Veltkamp).
_SPLITTER = 2**27 + 1


def real_bounds(context: Context, node: NodeProto) -> tuple[Fraction | None, Fraction | None]:
    """The bounds of a Relu or Clip, None where open.

    Raises:
        Uncovered: they are computed at run time.
    """
    if node.op_type == "Relu":
        return _ZERO, None
    found: list[Fraction | None] = []
    for slot in (1, 2):
        name = node.input[slot] if len(node.input) > slot else ""
        if not name:
            found.append(None)
            continue
        if not context.graph.is_constant(name):
            raise Uncovered("its bounds are computed at run time")
        number = float(np.asarray(context.graph.array(name)).reshape(-1)[0])
        if math.isnan(number):
            raise Uncovered("one of its bounds is NaN")
        if math.isinf(number) and (number > 0) == (slot == 1):
            raise Uncovered("one of its bounds is infinite")
        found.append(None if math.isinf(number) else Fraction(number))
    return found[0], found[1]


def integer_bounds(context: Context, layer: Layer, step: Fraction) -> tuple[int, int]:
    """Smallest and largest integer that the layer can return: its type's, and those of clips on its way out.

    Rounding is monotonic, so that min and max of rounded numbers are the rounded min and max.
    """
    low: int | None = None
    high: int | None = None
    for node in layer.functions:
        if node.op_type not in CLIPS:
            return layer.result.low, layer.result.high
        least, most = real_bounds(context, node)
        a = None if least is None else rounded(least / step, context.arithmetic.layers)
        b = None if most is None else rounded(most / step, context.arithmetic.layers)
        if a is not None and b is not None:
            a = min(a, b)  # ONNX: min(max(x, lo), hi)
        low, high = _within(low, a, b), _within(high, a, b)
        low, high = (a if low is None else low), (b if high is None else high)
    kinds = layer.result.low, layer.result.high
    return (
        kinds[0] if low is None else min(max(low, kinds[0]), kinds[1]),
        kinds[1] if high is None else min(max(high, kinds[0]), kinds[1]),
    )


def _within(number: int | None, low: int | None, high: int | None) -> int | None:
    if number is None:
        return None
    number = number if low is None else max(number, low)
    return number if high is None else min(number, high)


def wants_offset(context: Context, layer: Layer, bits: int, least: Fraction) -> bool:
    """Whether the half of the rounding may be part of a layer's bias."""
    if any(node.op_type not in CLIPS for node in layer.functions):
        return False
    low, _ = integer_bounds(context, layer, Fraction(2) ** exponent(layer.result))
    return needs_offset(bits, low, context.arithmetic.layers, least)


def leave(context: Context, layer: Layer, value: Value, *, has_offset: bool = False) -> Outcome:
    """Apply the activation function to r, given in steps of the result; round, saturate, name.

    Raises:
        NotExact: double precision does not hold it.
        Uncovered: a function that nothing computes there.
    """
    step = Fraction(2) ** exponent(layer.result)
    low, high = integer_bounds(context, layer, step)
    carrier = value.carrier
    if layer.functions and layer.functions[0].op_type not in CLIPS:
        if len(layer.functions) > 1:
            raise Uncovered("two activation functions stand behind it")
        function = layer.functions[0]
        if function.op_type == "HardSwish":
            return _hard_swish(context, layer, value, step)
        value = _EXPRESSIONS[function.op_type](context, function, value, step, low, high)
        carrier = "float64" if "float64" in {carrier, value.carrier} else carrier
    result = finish(
        context.expressions, value, low, high, context.arithmetic.layers, layer.result.name, has_offset=has_offset
    )
    return Outcome(int(result.low), int(result.high), carrier)


# --- expressions ---


def _slope(context: Context, node: NodeProto) -> NDArray[np.float64]:
    if node.op_type == "LeakyRelu":
        slope = np.asarray(float(np.float32(attribute(node, "alpha", 0.01))))
    elif context.graph.is_constant(node.input[1]):
        slope = context.graph.array(node.input[1]).astype(np.float64)
    else:
        slope = _dequantized_slope(context, node.input[1])
    if not context.arithmetic.dpu_units:
        return slope
    away = np.abs(slope - float(DPU_SLOPE))
    if np.any(away > 1 / 512):
        raise Uncovered(f"slope {float(slope.flat[int(away.argmax())]):g}: the DPU has 26/256 only")
    return np.asarray(float(DPU_SLOPE))


def _dequantized_slope(context: Context, name: str) -> NDArray[np.float64]:
    maker = context.graph.producer.get(name)
    if maker is None or maker.op_type != "DequantizeLinear" or not context.graph.is_constant(maker.input[0]):
        raise Uncovered("its slope is computed at run time")
    integers, scale = context.graph.array(maker.input[0]), context.graph.array(maker.input[1])
    zero = context.graph.array(maker.input[2]) if len(maker.input) > 2 and maker.input[2] else np.zeros(1)
    if scale.size != 1 or np.any(zero):
        raise Uncovered("its slope has several steps")
    return integers.astype(np.float64) * float(scale.reshape(-1)[0])


def _leaky(context: Context, node: NodeProto, value: Value, step: Fraction, low: int, high: int) -> Value:  # noqa: ARG001
    slope = _slope(context, node)
    e = context.expressions
    value = _saturated(context, value, slope, low, high)
    if value.low >= 0:
        return value
    right = e.positive(value)
    factor = e.given(slope, "slope")
    left = e.multiply(e.negative(value), factor)
    # One of the two is 0, so their sum is one of them and as exact as they are.
    needed: Carrier = "float64" if "float64" in {left.carrier, right.carrier} else "float32"
    right, left = e.as_carrier(right, needed), e.as_carrier(left, needed)
    name = e.node("Add", [right.name, left.name])
    return Value(name, needed, min(left.low, _ZERO), max(right.high, left.high), max(left.bits, right.bits))


def _saturated(context: Context, value: Value, slope: NDArray[np.float64], low: int, high: int) -> Value:
    """Cut off what saturates behind the function anyway: what remains needs fewer bits."""
    smallest = float(slope.min()) if slope.size else 0.0
    least = value.low if smallest <= 0 else Fraction(math.floor(Fraction(low - 1) / Fraction(smallest)))
    if float(slope.max(initial=0)) < 0 or smallest < 0:
        return value
    return context.expressions.clip(value, max(least, value.low), min(Fraction(high + 1), max(value.high, _ZERO)))


def _hard_sigmoid(context: Context, node: NodeProto, value: Value, step: Fraction, low: int, high: int) -> Value:  # noqa: ARG001
    e = context.expressions
    alpha = Fraction(float(np.float32(attribute(node, "alpha", 0.2))))
    beta = Fraction(float(np.float32(attribute(node, "beta", 0.5))))
    if context.arithmetic.dpu_units:
        _require_sixth(alpha, beta)
        margin = 3 / step
        value = e.clip(value, Fraction(math.floor(-margin)) - 1, Fraction(math.ceil(margin)) + 1)
        return e.times(e.clip(e.plus(value, margin), 0, 6 / step), DPU_SIXTH)
    if alpha > 0:
        least, most = (-beta / step) / alpha, ((1 - beta) / step) / alpha
        value = e.clip(value, Fraction(math.floor(least)) - 1, Fraction(math.ceil(most)) + 1)
    return e.clip(e.plus(e.times(value, alpha), beta / step), 0, 1 / step)


def _require_sixth(alpha: Fraction, beta: Fraction) -> None:
    if abs(alpha - Fraction(1, 6)) > _TOLERANCE or abs(beta - HALF) > _TOLERANCE:
        raise Uncovered(f"{float(alpha):g}·x + {float(beta):g}: the DPU has x/6 + 1/2 only")


_EXPRESSIONS: dict[str, Callable[[Context, NodeProto, Value, Fraction, int, int], Value]] = {
    "LeakyRelu": _leaky,
    "PRelu": _leaky,
    "HardSigmoid": _hard_sigmoid,
}


def _hard_swish(context: Context, layer: Layer, value: Value, step: Fraction) -> Outcome:
    """r·min(max(r/6 + 1/2, 0), 1) behind another operator, rounded half away.

    |r| and the gate are exact doubles, their product need not be one: it is taken as a double and its error (Dekker,
    'A floating-point technique for extending the available precision', 1971), whose sum is floored exactly.
    """
    if context.arithmetic.dpu_units:
        raise Uncovered("the DPU rounds before a hard swish, and the network has no step there")
    e, high, low = context.expressions, layer.result.high, layer.result.low
    # Beyond 3 it is r itself, below -3 it is 0.
    edge = Fraction(math.ceil(3 / step)) + 1
    value = e.as_carrier(e.clip(value, -edge, max(Fraction(high + 1), edge)), "float64")
    gate = e.clip(e.plus(e.times(e.clip(value, -edge, edge), _SIXTH * step), HALF), 0, 1)
    size = e.node("Abs", [value.name])
    product = e.node("Mul", [size, gate.name])
    error = _product_error(context, size, gate.name, product)
    whole = e.node("Floor", [product])
    over_half = e.node("Sub", [e.node("Sub", [product, whole]), e.number(HALF, "float64")])
    # The sign of a sum of two doubles is always right.
    up = e.node("GreaterOrEqual", [e.node("Add", [over_half, error]), e.number(0, "float64")])
    magnitude = e.node("Add", [whole, e.node("Cast", [up], to=TensorProto.DOUBLE)])
    signed = e.node("Mul", [magnitude, e.node("Sign", [value.name])])
    bounds = [e.number(Fraction(bound), "float64") for bound in (low, high)]
    clipped = Value(e.node("Clip", [signed, *bounds]), "float64", Fraction(low), Fraction(high), 0)
    e.identity(clipped, layer.result.name)
    return Outcome(low, high, "float64")


def _product_error(context: Context, left: str, right: str, product: str) -> str:
    """What fl(left·right) = product lacks of the exact product of two doubles."""
    e = context.expressions
    halves = []
    for number in (left, right):
        spread = e.node("Mul", [number, e.number(_SPLITTER, "float64")])
        upper = e.node("Sub", [spread, e.node("Sub", [spread, number])])
        halves.append((upper, e.node("Sub", [number, upper])))
    (a, b), (c, d) = halves
    error = e.node("Sub", [e.node("Mul", [a, c]), product])
    for one, other in ((a, d), (b, c), (b, d)):
        error = e.node("Add", [error, e.node("Mul", [one, other])])
    return error


# --- tables ---


def alone(context: Context, layer: Layer) -> Outcome:
    """A function of an 8-bit tensor."""
    tensor = only_tensor(layer)
    here, there = exponent(tensor), exponent(layer.result)
    node = layer.node
    if layer.functions:
        raise Uncovered("two activation functions stand one behind the other")
    as_function = replace(layer, functions=(node,))
    if node.op_type in CLIPS | {"PRelu"} or (node.op_type == "LeakyRelu" and context.arithmetic.dpu_units):
        # In fewer passes than a table, as 8 bits leave room for the slope; PRelu has one for each channel.
        value = context.expressions.times(context.value(tensor), Fraction(2) ** (here - there))
        return leave(context, as_function, value)
    function = _real_function(context, node, there)
    low, high = context.bounds[tensor.name]
    rounding = Rounding.HALF_AWAY if node.op_type in {"Sigmoid", "Tanh"} else context.arithmetic.layers
    table = [
        min(max(rounded(function(q * Fraction(2) ** here), rounding), layer.result.low), layer.result.high)
        for q in range(low, high + 1)
    ]
    e = context.expressions
    index = e.node("Cast", [e.node("Add", [tensor.name, e.number(-low, "float32")])], to=TensorProto.INT32)
    e.identity(
        Value(
            e.node("Gather", [e.array(np.asarray(table, np.float32), "table"), index], axis=0),
            "float32",
            Fraction(min(table)),
            Fraction(max(table)),
            0,
        ),
        layer.result.name,
    )
    software = None
    if node.op_type in {"Sigmoid", "Tanh"} and context.arithmetic.name in {"dpu", "mathworks"}:
        software = f"{context.arithmetic.title} has no {node.op_type}: computed on its processor, rounded half away"
    return Outcome(min(table), max(table), None, software)


def _real_function(context: Context, node: NodeProto, there: int) -> Callable[[Fraction], Fraction]:
    """From a real number to its image over the result's step, exactly; Sigmoid and Tanh in double precision."""
    step = Fraction(2) ** there
    dpu = context.arithmetic.dpu_units
    if node.op_type == "Sigmoid":
        return lambda r: Fraction(_sigmoid(float(r))) / step
    if node.op_type == "Tanh":
        return lambda r: Fraction(math.tanh(float(r))) / step
    if node.op_type == "LeakyRelu":
        slope = Fraction(float(_slope(context, node)))
        return lambda r: (r if r >= 0 else r * slope) / step
    if node.op_type == "HardSigmoid":
        alpha = Fraction(float(np.float32(attribute(node, "alpha", 0.2))))
        beta = Fraction(float(np.float32(attribute(node, "beta", 0.5))))
        if dpu:
            _require_sixth(alpha, beta)
            return lambda r: _clamp(r + 3, 6) * DPU_SIXTH / step
        return lambda r: _clamp(alpha * r + beta, 1) / step
    if dpu:
        return lambda r: (
            r * Fraction(min(rounded(_clamp(r + 3, 6) * DPU_SIXTH * 128, Rounding.HALF_UP), 127), 128) / step
        )
    return lambda r: r * _clamp(_SIXTH * r + HALF, 1) / step


def _clamp(number: Fraction, most: int) -> Fraction:
    return min(max(number, _ZERO), Fraction(most))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
