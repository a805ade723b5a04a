"""Layers whose values may stand for infinity: attention masks and what they are added to.

A mask of -inf (or of the lowest float32, as many exporters write it) beside scores of ±10 leaves an int8 scale nothing
for the scores. What follows from such a constant stays float until something bounds it: a softmax, a comparison, ….
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.numpy_helper import to_array

from harness.quantize.graph import Graph, attribute

#: No activation is as large; masks are written as -inf, -3.4e38 (lowest float32) or -1e30 and beyond.
_STANDS_FOR_INFINITY = 1e30

#: Operators that hand on such values from any of their operands.
_HAND_ON = frozenset(
    {
        "Add",
        "Cast",
        "CastLike",
        "Clip",
        "Concat",
        "Div",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pad",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    }
)
#: There such a constant is the bound that nothing reaches.
_BOUND_BY_CONSTANTS = frozenset({"Max", "Min", "Clip"})
#: These have their own reason to stay float.
_BOUNDING = frozenset({"Softmax", "LogSoftmax"})


def infinite_layers(graph: Graph) -> dict[str, str]:
    """Layer → why it stays float, for each that reads or makes values that may stand for infinity."""
    origin: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if node.domain:
            continue
        source = next((origin[name] for name in node.input if name in origin), None)
        hands_on = node.op_type in _HAND_ON
        if source is None and hands_on and node.op_type not in _BOUND_BY_CONSTANTS:
            source = next((name for name in node.input if _is_mask(graph, name)), None)
        if source is None and _fills(node):
            source, hands_on = node.output[0], True
        if source is None:
            continue
        if node.op_type not in _BOUNDING:
            reasons[node.name] = f"may hold values that stand for infinity, from {source!r}: no scale serves both"
        if hands_on:
            origin |= {name: source for name in node.output if name}
    return reasons


def _is_mask(graph: Graph, name: str) -> bool:
    if not graph.is_constant(name):
        return False
    values = graph.array(name)
    return values.dtype.kind == "f" and bool(values.size) and _infinite(values)


def _fills(node: NodeProto) -> bool:
    """Whether a node makes a tensor full of such a value."""
    value = attribute(node, "value") if node.op_type == "ConstantOfShape" else None
    return value is not None and _infinite(to_array(value))


def _infinite(values: NDArray[Any]) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(values.max() >= _STANDS_FOR_INFINITY or values.min() <= -_STANDS_FOR_INFINITY)
