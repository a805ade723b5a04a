"""Int8 layers of TensorRT: whole sums, then one float32 factor and one float32 bias (docs/emulation.md, 'gpu')."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from harness.emulation.exact import Carrier, Value
from harness.emulation.integer_network import Constant, IntegerNetwork, QuantizedTensor
from harness.emulation.lowering.context import Context, Uncovered
from harness.emulation.lowering.weighted import Product, sums_of_activations, whole_sums
from harness.quantize.graph import attribute

#: Stands between a convolution and its factor: the runtime would fold the factor into the weights.
_BARRIER = float(2**31)


def quantize(context: Context, tensor: str, result: QuantizedTensor) -> None:
    """clip(half-even(x / s)) in float32, as QuantizeLinear."""
    e = context.expressions
    step = np.asarray(result.step, np.float32)
    divided = e.node("Div", [tensor, e.array(step)])
    bounds = [e.number(Fraction(bound), "float32") for bound in (result.low, result.high)]
    e.node("Round", [e.node("Clip", [divided, *bounds])], result.name)
    context.bounds[result.name] = (result.low, result.high)


def lower_layer(context: Context, network: IntegerNetwork, node: NodeProto) -> Carrier:
    """A convolution or matrix product of integers, in place of the float one; the carrier of its sums.

    Raises:
        NotExact: no carrier holds the sums.
        Uncovered: its operands are no integers.
    """
    operands = [network.dequantized.get(name) or network.constants.get(name) for name in node.input[:2]]
    first, second = operands[0], operands[1]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if isinstance(first, QuantizedTensor) and isinstance(second, QuantizedTensor) and node.op_type == "MatMul":
        return _activations(context, node, first, second)
    slot = 0
    if isinstance(first, Constant) and isinstance(second, QuantizedTensor) and node.op_type == "MatMul":
        first, second, slot = second, first, 1
    if not isinstance(first, QuantizedTensor) or not isinstance(second, Constant):
        raise Uncovered("its operands are not both integers")
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0):
        raise Uncovered("it has factors alpha and beta")
    if abs(second.values).max(initial=0) > 255:
        raise Uncovered("its weights are wider than 8 bits")
    low, high = context.bounds[first.name]
    product = Product(node, first.name, slot, min(low, 0), max(high, 0), second.values, ())
    total = whole_sums(context, product)
    e = context.expressions
    factor = e.array(_factors(node, second, np.float32(first.step), slot), "factor")
    _scaled(context, total, factor, bias if bias is None else _bias(context, node, bias), node.output[0])
    return total.carrier


def _scaled(context: Context, total: Value, factor: str, bias: str | None, name: str) -> None:
    """fl(fl(fl(acc)·m) + b)."""
    e = context.expressions
    if total.carrier == "float64":
        acc = e.node("Cast", [total.name], to=TensorProto.FLOAT)
    else:
        bounds = [e.array(np.asarray(bound, np.float32)) for bound in (-_BARRIER, _BARRIER)]
        acc = e.node("Clip", [total.name, *bounds])
    if bias is None:
        e.node("Mul", [acc, factor], name)
    else:
        e.node("Add", [e.node("Mul", [acc, factor]), bias], name)


def _factors(node: NodeProto, weight: Constant, step: np.float32, slot: int) -> NDArray[np.float32]:
    """fl(s_x·s_w), in a shape that broadcasts to the result."""
    factors = (step * weight.scale).astype(np.float32)
    if factors.size == 1:
        return factors.reshape(())
    axis = int(np.argmax(weight.scale.shape))
    rank = weight.values.ndim
    channels = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if attribute(node, "transB", 0) else 1}
    wanted = channels.get(node.op_type, rank - 2 if slot else rank - 1)
    if axis != wanted or (node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1):
        raise Uncovered("its weights have a step of their own along another axis than the output channels'")
    if node.op_type in {"Conv", "ConvTranspose"}:
        return factors.reshape(-1, *[1] * (rank - 2))
    return factors.reshape(-1, 1) if slot else factors.reshape(-1)


def _bias(context: Context, node: NodeProto, bias: str) -> str:
    """Name of the float bias in a shape that broadcasts to the result."""
    if node.op_type == "Gemm":
        return bias
    if not context.graph.is_constant(bias):
        raise Uncovered("its bias is no float constant")
    rank = len(context.shape(node.input[1]))
    value = context.graph.array(bias).astype(np.float32)
    return context.expressions.array(value.reshape(-1, *[1] * (rank - 2)), "bias")


def _activations(context: Context, node: NodeProto, first: QuantizedTensor, second: QuantizedTensor) -> Carrier:
    total = sums_of_activations(context, node, first, second)
    factor = context.expressions.array(np.asarray(np.float32(first.step) * np.float32(second.step), np.float32))
    _scaled(context, total, factor, None, node.output[0])
    return total.carrier
