"""Reading an LSTM, GRU or RNN node: everything the operator's definition can say, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from harness.quantize.graph import Graph, attribute

Floats = NDArray[np.float32]

#: Operator → number of gates stacked in its weights.
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: Operator → activation functions of one direction, as the operator's definition has them by default.
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
#: Activation functions that are an ONNX operator without parameters.
_PLAIN = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of a layer.

    Args:
        reverse: it reads the sequence from its end.
        input_weights: [gates x hidden, inputs], gates in ONNX's order (LSTM: i, o, f, c; GRU: z, r, h).
        recurrent_weights: [gates x hidden, hidden].
        input_bias: [gates x hidden].
        recurrent_bias: [gates x hidden].
        peepholes: [3 x hidden] for i, o, f, or None.
        functions: operators of its activation functions (LSTM: f, g, h; GRU: f, g; RNN: f).
    """

    reverse: bool
    input_weights: Floats
    recurrent_weights: Floats
    input_bias: Floats
    recurrent_bias: Floats
    peepholes: Floats | None
    functions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """A recurrent layer that can be written out.

    Args:
        node: the layer.
        steps: its sequence length.
        hidden: size of its state.
        directions: forward, reverse, or both.
        initial_h: tensor [directions, N, hidden] that its state starts from, None for zeros.
        initial_c: the same of an LSTM's cell.
        coupled: the forget gate is one minus the input gate (`input_forget`).
        reset_after: the reset gate is applied after the matrix product (`linear_before_reset`).
        clip: what enters an activation function is cut at ±clip.
    """

    node: NodeProto
    steps: int
    hidden: int
    directions: tuple[Direction, ...]
    initial_h: str | None
    initial_c: str | None
    coupled: bool
    reset_after: bool
    clip: float | None


def constant_weights(graph: Graph, node: NodeProto) -> bool:
    """Whether all parameters of a recurrent layer are float32 constants."""
    names = [node.input[slot] for slot in (1, 2, 3, 7) if len(node.input) > slot and node.input[slot]]
    return all(graph.is_constant(name) and graph.element_type(name) == TensorProto.FLOAT for name in names)


def read_layer(graph: Graph, node: NodeProto, most_steps: int) -> Layer | str:
    """A recurrent node as a `Layer`, or why it cannot be written out.

    Args:
        graph: a network with types inferred.
        node: an LSTM, GRU or RNN.
        most_steps: longest sequence that is written out.
    """
    if not constant_weights(graph, node):
        return "its weights are computed at run time, or are not float32"
    if attribute(node, "layout", 0):
        return "layout 1: the batch comes first, which ONNX Runtime does not run"
    shape = graph.shape(node.input[0])
    steps = shape[0] if shape is not None and len(shape) == 3 else None
    if steps is None:
        return "its sequence length is free"
    if steps > most_steps:
        return f"its sequence of {steps} steps is too long to write out (at most {most_steps})"
    if steps < 1:
        return "its sequence is empty"
    if not _all_full(graph, _optional(node, 4), steps):
        return "its sequences differ in length (sequence_lens)"
    functions = _functions(node)
    if functions is None:
        return "it has activation functions with parameters"
    hidden = int(graph.array(node.input[2]).shape[-1])
    return Layer(
        node,
        steps,
        hidden,
        _directions(graph, node, functions, hidden),
        _unless_zero(graph, _optional(node, 5)),
        _unless_zero(graph, _optional(node, 6)) if node.op_type == "LSTM" else None,
        bool(attribute(node, "input_forget", 0)),
        bool(attribute(node, "linear_before_reset", 0)),
        attribute(node, "clip", None),
    )


def _optional(node: NodeProto, slot: int) -> str:
    return node.input[slot] if len(node.input) > slot else ""


def _all_full(graph: Graph, lengths: str, steps: int) -> bool:
    return not lengths or (graph.is_constant(lengths) and bool((graph.array(lengths) == steps).all()))


def _unless_zero(graph: Graph, name: str) -> str | None:
    if not name or (graph.is_constant(name) and not graph.array(name).any()):
        return None
    return name


def _functions(node: NodeProto) -> list[tuple[str, ...]] | None:
    """Activation functions of each direction; None where one has parameters or is unknown."""
    count = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    defaults = _DEFAULTS[node.op_type]
    given = [name.decode() if isinstance(name, bytes) else str(name) for name in attribute(node, "activations", [])]
    names = given or list(defaults) * count
    if len(names) != len(defaults) * count or any(name.lower() not in _PLAIN for name in names):
        return None
    plain = [_PLAIN[name.lower()] for name in names]
    return [tuple(plain[index * len(defaults) : (index + 1) * len(defaults)]) for index in range(count)]


def _directions(graph: Graph, node: NodeProto, functions: list[tuple[str, ...]], hidden: int) -> tuple[Direction, ...]:
    rows = GATES[node.op_type] * hidden
    weights, recurrent = graph.array(node.input[1]), graph.array(node.input[2])
    biases = _optional(node, 3)
    peepholes = _optional(node, 7) if node.op_type == "LSTM" else ""
    backward = attribute(node, "direction", "forward") == "reverse"
    found = []
    for index, names in enumerate(functions):
        both = graph.array(biases)[index] if biases else np.zeros(2 * rows, np.float32)
        found.append(
            Direction(
                reverse=backward or index == 1,
                input_weights=weights[index],
                recurrent_weights=recurrent[index],
                input_bias=both[:rows],
                recurrent_bias=both[rows:],
                peepholes=graph.array(peepholes)[index] if peepholes else None,
                functions=names,
            )
        )
    return tuple(found)
