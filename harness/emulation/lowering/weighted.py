"""Convolutions, transposed convolutions and matrix products with constant weights; products of two activations."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.emulation.exact import EXACT_UP_TO, NotExact, Value, carrier_for, finest
from harness.emulation.integer_network import Constant, Layer, QuantizedTensor
from harness.emulation.lowering import dpu
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent, exponents
from harness.emulation.lowering.digits import splits
from harness.emulation.lowering.functions import leave, wants_offset
from harness.quantize.graph import attribute

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Product:
    """A layer with constant weights, ready to be written.

    Args:
        node: the operator.
        data: name of its integers.
        data_slot: where they enter.
        low: smallest value of the data, 0 included (padding).
        high: largest value of the data, 0 included.
        weights: the integers.
        result_shape: of one factor or bias for each output channel, so that it broadcasts to the result.
    """

    node: NodeProto
    data: str
    data_slot: int
    low: int
    high: int
    weights: NDArray[np.int64]
    result_shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of output channels."""
        node, shape = self.node, self.weights.shape
        if node.op_type == "ConvTranspose":
            return int(shape[1] * attribute(node, "group", 1))
        if node.op_type == "Gemm":
            return int(shape[0 if attribute(node, "transB", 0) else 1])
        if node.op_type == "MatMul":
            return int(shape[-2 if self.data_slot else -1])
        return int(shape[0])

    def steps_along_channels(self, unit: Array) -> Array:
        """A step of each output channel, so that it broadcasts to the result.

        Args:
            unit: one number, or in the rank of the weights.

        Raises:
            Uncovered: the steps differ along another axis.
        """
        if unit.size == 1:
            return unit.reshape(())
        rank = self.weights.ndim
        axes = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if attribute(self.node, "transB", 0) else 1}
        wanted = axes.get(self.node.op_type, rank - 2 if self.data_slot else rank - 1)
        if unit.size != unit.shape[wanted] or unit.size != self.channels:
            raise Uncovered("its weights have steps of their own along another axis than the output channels'")
        return unit.reshape(self.result_shape)

    def sums(self, weights: Array) -> tuple[Array, Array]:
        """Bounds of every partial sum of each output channel, in whichever order products are added.

        Args:
            weights: of the same shape; in any unit.
        """
        small = np.minimum(weights * self.low, weights * self.high)
        large = np.maximum(weights * self.low, weights * self.high)
        return self._per_channel(small), self._per_channel(large)

    def _per_channel(self, products: Array) -> Array:
        node = self.node
        if node.op_type == "Conv":
            return np.asarray(products.reshape(products.shape[0], -1).sum(axis=1))
        if node.op_type == "ConvTranspose":
            groups = int(attribute(node, "group", 1))
            split = products.reshape(groups, products.shape[0] // groups, products.shape[1], -1)
            return np.asarray(split.sum(axis=(1, 3)).reshape(-1))
        if node.op_type == "Gemm":
            return np.asarray(products.sum(axis=1 if attribute(node, "transB", 0) else 0))
        if self.data_slot == 1:
            return np.asarray(products.sum(axis=-1))
        return np.asarray(products.sum(axis=0 if products.ndim == 1 else -2))

    def write(self, context: Context, weights: Array, bias: str | None = None) -> str:
        """Emit the operator with these weights, float32; the name of what it returns."""
        e = context.expressions
        constant = e.array(weights.astype(np.float32), "weight")
        inputs = [self.data, constant] if self.data_slot == 0 else [constant, self.data]
        if bias is not None:
            inputs.append(bias)
        kept = {entry.name: entry for entry in self.node.attribute}
        name = e.node(self.node.op_type, inputs)
        e.nodes[-1].attribute.extend(kept.values())
        return name


def product_of(context: Context, layer: Layer) -> tuple[Product, Constant, QuantizedTensor]:
    """The layer's data and weights.

    Raises:
        Uncovered: there are none such.
    """
    node = layer.node
    first, second = layer.operands[0], layer.operands[1]
    if isinstance(first, Constant) and isinstance(second, QuantizedTensor) and node.op_type == "MatMul":
        weight, data, slot = first, second, 1
    elif isinstance(first, QuantizedTensor) and isinstance(second, Constant):
        weight, data, slot = second, first, 0
    else:
        raise Uncovered("its weights are no constant integers")
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0):
        raise Uncovered("it has factors alpha and beta that integers do not hold")
    if abs(weight.values).max(initial=0) > 255:
        raise Uncovered("its weights are wider than 8 bits")
    low, high = context.bounds[data.name]
    channels: tuple[int, ...] = (-1,)
    if node.op_type in {"Conv", "ConvTranspose"}:
        channels = (-1, *[1] * (weight.values.ndim - 2))
    elif slot == 1:
        channels = (-1, 1)
    return Product(node, data.name, slot, min(low, 0), max(high, 0), weight.values, channels), weight, data


def constant_weights(context: Context, layer: Layer) -> Outcome:
    """Σ w·x·s_w·s_x + b·s_b, rounded once.

    Raises:
        NotExact: double precision does not hold the sums.
        Uncovered: no integers, or beyond the board's limits.
    """
    product, weight, data = product_of(context, layer)
    given = layer.bias or layer.operands.get(2)
    if given is not None and not isinstance(given, Constant):
        raise Uncovered("its bias is no constant")
    there = exponent(layer.result)
    shift = exponent(data) - there
    if context.arithmetic.dpu_units:
        dpu.check_weighted(exponent(data), exponent(weight), None if given is None else exponent(given), there)
    exponents(weight)
    bias = None
    if given is not None:
        exponents(given)
        bias = given.in_steps_of(there)
    scaled = weight.in_steps_of(-shift)
    steps = weight.exponents()
    assert steps is not None
    unit = np.ldexp(1.0, (steps + shift).astype(int))
    return _in_single(context, layer, product, scaled, unit, bias) or _in_digits(context, layer, product, unit, bias)


@dataclass(frozen=True, eq=False)
class _Bounded:
    """A bias beside the bounds of the sums that it is added to.

    Args:
        least: bounds of each output channel's partial sums, or of all.
        most: the same.
        bias: in the layer's units; None without one.
        inside: the operator takes it as an input.
    """

    least: Array
    most: Array
    bias: Array | None
    inside: bool

    def low(self) -> Fraction:
        """No partial sum is smaller."""
        return Fraction(float((self.least + (0 if self.bias is None else np.minimum(self.bias, 0))).min(initial=0)))

    def high(self) -> Fraction:
        """No partial sum is larger."""
        return Fraction(float((self.most + (0 if self.bias is None else np.maximum(self.bias, 0))).max(initial=0)))

    def plus_half(self, channels: int, unit: float) -> _Bounded:
        """With the rounding's half in the bias, as a multiple of what the sums are multiples of.

        Only the floor of the whole is taken: what is finer than the sums decides nothing in it.
        """
        bias = self.bias
        if bias is None:
            bias = np.zeros(channels if self.inside else ())
        return _Bounded(self.least, self.most, np.floor((bias + 0.5) / unit) * unit, self.inside)


def _bounded(product: Product, scaled: Array, bias: Array | None) -> _Bounded:
    least, most = product.sums(scaled)
    takes = product.node.op_type != "MatMul"
    if bias is None:
        return _Bounded(least, most, None, takes)
    vector = bias.reshape(-1)
    if least.ndim == 1 and vector.shape == least.shape and bias.shape[-1:] == vector.shape and product.data_slot == 0:
        return _Bounded(least, most, vector, takes)
    # Of another shape (a matrix of biases, one number): every sum may meet every bias.
    return _Bounded(np.asarray(least.min(initial=0)), np.asarray(most.max(initial=0)), bias, inside=False)


def _in_single(
    context: Context, layer: Layer, product: Product, scaled: Array, unit: Array, bias: Array | None
) -> Outcome | None:
    """One float32 operator with the shift in its weights and the rounding's half in its bias; None where not exact."""
    bounded = _bounded(product, scaled, bias)
    bits = finest([*np.unique(unit), *([] if bias is None else np.unique(bias))])
    offset = wants_offset(context, layer, bits, bounded.low())
    try:
        if offset:
            carrier_for(bounded.low(), bounded.high() + 1, bits)
            # Never coarser than an output unit, or the floor would take whole units of the bias along.
            finer = min(float(unit.min()), 1.0)
            bounded, bits = bounded.plus_half(product.channels, finer), finest([finer])
        if carrier_for(bounded.low(), bounded.high(), bits) != "float32":
            return None
    except NotExact:
        return None
    if not np.array_equal(scaled.astype(np.float32).astype(np.float64), scaled):
        return None
    e = context.expressions
    added = None if bounded.bias is None else e.array(bounded.bias.astype(np.float32), "bias")
    name = product.write(context, scaled, added if bounded.inside else None)
    if added is not None and not bounded.inside:
        name = e.node("Add", [name, added])
    return leave(context, layer, Value(name, "float32", bounded.low(), bounded.high(), bits), has_offset=offset)


def whole_sums(context: Context, product: Product) -> Value:
    """Σ w·q as whole numbers: of one or more digits in float32, put together in the narrowest type that holds them.

    Raises:
        NotExact: the sums of no digits are exact in float32.
    """
    e = context.expressions
    for parts in splits(product.weights):
        ranges = [product.sums(digits.astype(np.float64)) for digits, _ in parts]
        lows, highs = (
            [float(low.min(initial=0)) for low, _ in ranges],
            [float(high.max(initial=0)) for _, high in ranges],
        )
        if max(-min(lows), *highs) <= float(EXACT_UP_TO["float32"]):
            break
    else:
        raise NotExact("too many products for exact sums in single precision, even digit by digit")
    total: Value | None = None
    for (digits, factor), low, high in zip(parts, lows, highs, strict=True):
        name = product.write(context, digits.astype(np.float64))
        part = e.times(Value(name, "float32", Fraction(low), Fraction(high), 0), factor)
        total = part if total is None else e.add(total, part)
    assert total is not None
    return total


def _in_digits(context: Context, layer: Layer, product: Product, unit: Array, bias: Array | None) -> Outcome:
    """Whole numbers of one or more digits in float32, put together in float64."""
    e = context.expressions
    total = whole_sums(context, product)
    value = e.multiply(e.as_carrier(total, "float64"), e.given(product.steps_along_channels(unit), "step"))
    if bias is not None:
        if product.node.op_type in {"Conv", "ConvTranspose"}:
            bias = bias.reshape(product.result_shape)
        value = e.add(value, e.given(bias, "bias"))
    return leave(context, layer, value)


def two_activations(context: Context, layer: Layer) -> Outcome:
    """Σ a·b·s_a·s_b of two quantized tensors.

    Raises:
        NotExact: double precision does not hold the sums.
        Uncovered: the length of the sums is not known, or no integers.
    """
    first, second = layer.operands[0], layer.operands[1]
    if not isinstance(first, QuantizedTensor) or not isinstance(second, QuantizedTensor):
        raise Uncovered("its operands are no integers")
    value = sums_of_activations(context, layer.node, first, second)
    shift = exponent(first) + exponent(second) - exponent(layer.result)
    return leave(context, layer, context.expressions.times(value, Fraction(2) ** shift))


def sums_of_activations(context: Context, node: NodeProto, first: QuantizedTensor, second: QuantizedTensor) -> Value:
    """Σ a·b of the integers of two tensors.

    Raises:
        NotExact: double precision does not hold the sums.
        Uncovered: the length of the sums is not known.
    """
    e = context.expressions
    length = context.shape(node.input[0])[-1]
    if length is None:
        raise Uncovered("the length of its sums is not known before it runs")
    one, other = context.value(first), context.value(second)
    corners = [a * b * length for a in (one.low, one.high) for b in (other.low, other.high)]
    low, high = min(*corners, Fraction(0)), max(*corners, Fraction(0))
    carrier = carrier_for(low, high, 0)
    names = [e.as_carrier(value, carrier).name for value in (one, other)]
    return Value(e.node("MatMul", names), carrier, low, high, 0)


def lower_product(context: Context, layer: Layer) -> Outcome:
    """A convolution, a fully connected layer, a matrix product."""
    if all(isinstance(layer.operands.get(slot), QuantizedTensor) for slot in (0, 1)):
        if layer.node.op_type != "MatMul" or layer.bias is not None:
            raise Uncovered("its weights are computed at run time")
        return two_activations(context, layer)
    return constant_weights(context, layer)
