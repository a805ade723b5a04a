"""Operators that move integers and change none; nearest resizing and padding are among them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from onnx import NodeProto

from harness.emulation.exact import Value
from harness.emulation.integer_network import Layer
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent, only_tensor
from harness.emulation.lowering.elementwise import requantized
from harness.emulation.lowering.functions import leave
from harness.emulation.lowering.rounding import rounded
from harness.quantize.graph import attribute
from harness.quantize.rulebooks.rules import MOVERS, Rounding

MOVES = MOVERS


def lower_mover(context: Context, layer: Layer) -> Outcome:
    """The operator itself, on integers."""
    node = layer.node
    if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
        return _pad(context, layer)
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        raise Uncovered("it may drop values")
    tensor = only_tensor(layer)
    e = context.expressions
    names = context.moved.get(node.name)
    if names is None:
        names = _write(context, node, tensor.name)
    value = replace(context.value(tensor), name=names[layer.output])
    value = e.times(value, Fraction(2) ** (exponent(tensor) - exponent(layer.result)))
    outcome = leave(context, layer, value)
    if len(names) > 1:
        # its other outputs belong to layers of their own
        context.moved[node.name] = names
    return outcome


def _write(context: Context, node: NodeProto, data: str) -> dict[int, str]:
    """Emit a copy that reads integers; output → its name."""
    e = context.expressions
    outputs = [index for index, name in enumerate(node.output) if name and index < _value_outputs(node)]
    e.node(node.op_type, [data, *node.input[1:]])
    copy = e.nodes[-1]
    copy.attribute.extend(node.attribute)
    names = {0: copy.output[0]}
    for index in range(1, max(outputs) + 1):
        names[index] = e.fresh(node.op_type)
        copy.output.append(names[index])
    return names


def _value_outputs(node: NodeProto) -> int:
    # second outputs of these hold indices or a mask
    return 1 if node.op_type in {"MaxPool", "Dropout"} else len(node.output)


def _pad(context: Context, layer: Layer) -> Outcome:
    node, result = layer.node, layer.result
    tensor = only_tensor(layer)
    if layer.functions:
        raise Uncovered("an activation function stands behind a padding")
    pad = 0.0
    if len(node.input) > 2 and node.input[2]:
        if not context.graph.is_constant(node.input[2]):
            raise Uncovered("it pads with a value that is computed at run time")
        pad = float(np.asarray(context.graph.array(node.input[2])).reshape(-1)[0])
    if not np.isfinite(pad):
        raise Uncovered("it pads with no finite number")
    there = exponent(result)
    exact = Fraction(pad) / Fraction(2) ** there
    integer = min(max(rounded(exact, Rounding.HALF_AWAY), result.low), result.high)
    e = context.expressions
    inner = requantized(context, tensor, there, result.low, result.high)
    name = e.node("Pad", [inner.name, node.input[1], e.number(integer, "float32"), *node.input[3:]])
    e.nodes[-1].attribute.extend(node.attribute)
    low, high = min(inner.low, Fraction(integer)), max(inner.high, Fraction(integer))
    e.identity(Value(name, "float32", low, high, 0), result.name)
    return Outcome(int(low), int(high))
