"""Convolutions on the runtime's own integer kernels, where their rounding can be steered to be exact.

QLinearConv sums integers, multiplies the sum by one float32 number and rounds half to even. With the number
2^-s·(1 + 2^-23) a tie is moved away from zero, by at most 2^-15 below 256, while what is no tie lies 2^-s or more from
one: up to s = 13 it stays on its side. The sum is offset so that the result is never negative, where half away is half
up.

Kernels for unsigned times signed saturate sums of two products at 16 bits on x86 without VNNI. They are used where no
two products reach that, which holds for every weight behind a ReLU whose results are int8 (127·128·2 < 2^15). Elsewhere
weights are unsigned too, around 128: those kernels saturate nowhere, and take about twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from onnx import TensorProto

from harness.emulation.exact import EXACT_UP_TO
from harness.emulation.integer_network import Constant, Integers64, Layer, QuantizedTensor
from harness.emulation.lowering import dpu
from harness.emulation.lowering.context import Context, Outcome, exponent
from harness.emulation.lowering.functions import CLIPS, integer_bounds
from harness.emulation.lowering.weighted import product_of
from harness.quantize.rulebooks.rules import Rounding

#: The largest shift of the argument above.
_MOST = 13
_NUDGED = np.float32(1) + np.float32(2**-23)
#: What makes a signed 8-bit number an unsigned one.
_OFFSET = 128
_SATURATES_ABOVE = 2**15 - 1


@dataclass
class Bytes:
    """The tensors that exist as uint8.

    Args:
        context: of the lowering.
        names: integer tensor → its uint8 form, which is `_OFFSET` larger where there are negative values.
    """

    context: Context
    names: dict[str, str] = field(default_factory=dict)

    def offset(self, tensor: QuantizedTensor) -> int:
        """By how much the uint8 form is larger than the integers."""
        return _offset(self.context.bounds[tensor.name][0])

    def of(self, tensor: QuantizedTensor) -> str:
        """The uint8 form of a tensor."""
        if tensor.name not in self.names:
            e = self.context.expressions
            shifted = tensor.name
            if offset := self.offset(tensor):
                shifted = e.node("Add", [shifted, e.number(offset, "float32")])
            self.names[tensor.name] = e.node("Cast", [shifted], to=TensorProto.UINT8)
        return self.names[tensor.name]

    def made(self, name: str, result: QuantizedTensor, low: int, high: int) -> Outcome:
        """Note a uint8 tensor as a layer's result, and emit its float form for those who read that."""
        e = self.context.expressions
        offset = _offset(low)
        self.names[result.name] = name
        single = e.node("Cast", [name], None if offset else result.name, to=TensorProto.FLOAT)
        if offset:
            e.node("Sub", [single, e.number(offset, "float32")], result.name)
        return Outcome(low, high)


def _offset(low: int) -> int:
    return _OFFSET if low < 0 else 0


def lower_layer(context: Context, layer: Layer, known: Bytes) -> Outcome | None:
    """A layer on integer kernels; None where it has to be computed in floats.

    Raises:
        NotExact: never beyond what the float form raises.
        Uncovered: the board would compute it in software.
    """
    node = layer.node
    if node.op_type == "Conv":
        return _convolution(context, layer, known)
    if node.op_type == "MaxPool" and layer.output == 0 and not layer.functions:
        return _moved(context, layer, known, [layer.operands[0]])
    if node.op_type == "Concat" and not layer.functions:
        return _moved(context, layer, known, [layer.operands[slot] for slot in range(len(node.input))])
    return None


def _moved(context: Context, layer: Layer, known: Bytes, operands: list[QuantizedTensor | Constant]) -> Outcome | None:
    result = layer.result
    tensors = [operand for operand in operands if isinstance(operand, QuantizedTensor)]
    same = [(tensor.step, tensor.low) == (result.step, result.low) and tensor.name in known.names for tensor in tensors]
    if len(tensors) != len(operands) or not all(same) or len({known.offset(tensor) for tensor in tensors}) != 1:
        return None
    e = context.expressions
    name = e.node(layer.node.op_type, [known.of(tensor) for tensor in tensors])
    e.nodes[-1].attribute.extend(layer.node.attribute)
    bounds = [context.bounds[tensor.name] for tensor in tensors]
    return known.made(name, result, min(low for low, _ in bounds), max(high for _, high in bounds))


def _convolution(context: Context, layer: Layer, known: Bytes) -> Outcome | None:
    product, weight, data = product_of(context, layer)
    result, bias = layer.result, layer.operands.get(2)
    if layer.bias is not None or isinstance(bias, QuantizedTensor) or weight.scale.size != 1:
        return None
    if any(function.op_type not in CLIPS for function in layer.functions) or product.weights.ndim != 4:
        return None
    there = exponent(result)
    low, high = integer_bounds(context, layer, Fraction(2) ** there)
    if context.arithmetic.layers is not Rounding.HALF_UP and low < 0:
        return None
    shift = there - exponent(data) - exponent(weight)
    if context.arithmetic.dpu_units:
        dpu.check_weighted(exponent(data), exponent(weight), None if bias is None else exponent(bias), there)
    added = np.zeros(product.channels) if bias is None else bias.in_steps_of(there - shift)
    if not 0 <= shift <= _MOST:
        return None
    # What is finer than the sum decides nothing but where it lies to the next half.
    half = 0.5 * 2.0**shift
    added = np.floor(added + half) - np.floor(half)
    offset = _offset(low)
    added = added + offset * 2.0**shift
    least, most = product.sums(product.weights.astype(np.float64))
    if (
        max(-float((least + np.minimum(added, 0)).min()), float((most + np.maximum(added, 0)).max()))
        > EXACT_UP_TO["float32"]
    ):
        return None
    e = context.expressions
    one, here = np.asarray(1, np.float32), np.asarray(known.offset(data), np.uint8)
    weights, middle = product.weights, np.asarray(0, np.int8)
    if (context.bounds[data.name][1] + int(here)) * _largest_pair(weights) > _SATURATES_ABOVE:
        weights, middle = weights + _OFFSET, np.asarray(_OFFSET, np.uint8)
    name = e.node(
        "QLinearConv",
        [
            known.of(data),
            e.array(one),
            e.array(here),
            # Where it is told to be exact on x86 without VNNI, the runtime makes both of these unsigned, in place.
            e.own_array(weights.astype(middle.dtype), "weight"),
            e.array(np.asarray(_NUDGED, np.float32)),
            e.own_array(middle),
            e.array(np.asarray(2.0**shift, np.float32)),
            e.array(np.asarray(0, np.uint8)),
            e.array(added.astype(np.int32), "bias"),
        ],
    )
    e.nodes[-1].attribute.extend(layer.node.attribute)
    limits = low + offset, high + offset
    if limits != (0, 255):
        name = e.node("Clip", [name, *(e.array(np.asarray(limit, np.uint8)) for limit in limits)])
    return known.made(name, result, low, high)


def _largest_pair(weights: Integers64) -> int:
    """The largest sum of two weights' magnitudes."""
    sizes = np.sort(np.abs(weights), axis=None)
    return int(sizes[-2:].sum()) if sizes.size else 0
