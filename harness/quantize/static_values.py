"""What can be said about small integer and boolean tensors without running a network: shapes, ranks, conditions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.quantize.graph import Graph, attribute

#: Values known in part: an object array, None where an element depends on what the network is fed.
Partial = NDArray[np.object_]

#: A chain from a shape to a condition is short; longer ones are data, not shapes.
_DEEPEST = 32
#: A table this large is data, not a shape.
LARGEST = 64

_PAIRWISE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}


def static_value(graph: Graph, name: str, depth: int = 0) -> Partial | None:
    """A tensor's value as far as shapes and constants decide it, whatever the network is fed.

    Args:
        graph: a network with types inferred.
        name: the tensor.
        depth: how far from the tensor first asked for.

    Returns:
        an object array with None for each element that is not decided; None when not even its shape is.
    """
    if graph.is_constant(name):
        if sum(graph.initializers[name].dims) > LARGEST:
            return None
        return graph.array(name).astype(object)
    node = graph.producer.get(name)
    if node is None or node.domain not in {"", "ai.onnx"} or depth > _DEEPEST:
        return None
    if node.op_type in {"Shape", "Size"}:
        return _of_shape(node, graph.shape(node.input[0]))
    operands = [static_value(graph, source, depth + 1) for source in node.input if source]
    known = [value for value in operands if value is not None]
    if len(known) != len(operands) or not known:
        return None
    try:
        return _compute(node, known)
    except (ValueError, IndexError, TypeError):
        return None  # the network itself could not compute it either; the runtime says so better


def _of_shape(node: NodeProto, shape: Sequence[int | None] | None) -> Partial | None:
    if shape is None:
        return None
    sizes = np.array(list(shape), dtype=object)
    if node.op_type == "Size":
        known = all(size is not None for size in shape)
        return np.array(int(np.prod([int(s) for s in shape if s is not None])) if known else None, dtype=object)
    return sizes[attribute(node, "start", 0) : attribute(node, "end", None)]


def _compute(node: NodeProto, known: list[Partial]) -> Partial | None:
    kind, first = node.op_type, known[0]
    if kind == "Identity":
        return first
    if kind == "Cast":
        return _each(_as_type(attribute(node, "to")), first)
    if kind == "Not":
        return _each(operator.not_, first)
    if kind in _PAIRWISE and len(known) == 2:
        return _pairs(kind, first, known[1])
    if kind == "Gather":
        axis = attribute(node, "axis", 0)
        return np.asarray(np.take(first, _integers(known[1]), axis=axis), dtype=object)
    if kind == "Concat":
        return np.concatenate(known, axis=attribute(node, "axis"))
    if kind in {"Squeeze", "Unsqueeze"}:
        return _axes(node, known)
    return None


def _as_type(kind: int) -> Callable[[Any], Any]:
    # TensorProto.BOOL is 9; 1, 10, 11 and 16 are the floats. The rest that shapes are made of are integers.
    return bool if kind == 9 else float if kind in {1, 10, 11, 16} else int


def _each(function: Callable[[Any], Any], values: Partial) -> Partial:
    flat = [None if value is None else function(value) for value in values.reshape(-1)]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(values.shape)


def _pairs(kind: str, left: Partial, right: Partial) -> Partial:
    first, second = np.broadcast_arrays(left, right)
    function = _PAIRWISE[kind]
    flat = [
        None if a is None or b is None else function(a, b)
        for a, b in zip(first.reshape(-1), second.reshape(-1), strict=True)
    ]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(first.shape)


def _axes(node: NodeProto, known: list[Partial]) -> Partial:
    listed = _integers(known[1]).reshape(-1) if len(known) > 1 else np.array(attribute(node, "axes", []), dtype=int)
    axes = tuple(int(axis) for axis in listed)
    if node.op_type == "Squeeze":
        return np.squeeze(known[0], axis=axes or None)
    return np.expand_dims(known[0], axes)


def _integers(values: Partial) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)  # raises TypeError where an element is not decided
