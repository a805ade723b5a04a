"""The tensors at which two networks can be compared: the integers that layers hand to each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from harness.quantize.graph import Graph, subgraphs

#: Functions of one tensor that a layer may have fused behind its operator.
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"})
#: Operators with weights.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: What a tensor is called where the board's integers are fed in its place.
_GIVEN = ".of_the_board"


@dataclass(frozen=True, slots=True)
class Point:
    """One tensor of integers.

    Args:
        tensor: its name, the output of a QuantizeLinear.
        layer: name of the operator that makes it (in front of fused bias and activations), or the input's name.
        op_type: that operator, or "Input".
    """

    tensor: str
    layer: str
    op_type: str


def find_points(model: ModelProto) -> tuple[Point, ...]:
    """The integer tensors of a quantized network's main graph, in the order of its nodes.

    Args:
        model: the network, as Q/DQ.
    """
    graph = Graph(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and not graph.is_constant(node.input[0]):
            operator = maker(graph, node.input[0])
            name = node.input[0] if operator is None else operator.name or operator.output[0]
            found.append(Point(node.output[0], name, "Input" if operator is None else operator.op_type))
    return tuple(found)


def maker(graph: Graph, tensor: str) -> NodeProto | None:
    """The operator behind a float tensor, fused bias and activation functions passed over; None for an input."""
    node = graph.producer.get(tensor)
    while node is not None:
        source = data_input(graph, node)
        behind = None if source is None else graph.producer.get(source)
        if behind is None or behind.op_type == "DequantizeLinear":
            return node
        node = behind
    return None


def data_input(graph: Graph, node: NodeProto) -> str | None:
    """The tensor that a fused node continues; None for a node that is an operator of its own."""
    if node.op_type in ACTIVATIONS:
        return str(node.input[0])
    if node.op_type == "Add":  # a bias behind a matrix product, or a quantized shortcut behind a weighted layer
        for this, other in ((0, 1), (1, 0)):
            product = graph.producer.get(node.input[this])
            kind = "" if product is None else product.op_type
            stored = kind == "MatMul" and is_stored(graph, node.input[other])
            if stored or (kind in WEIGHTED and is_shortcut(graph, node.input[other])):
                return str(node.input[this])
    return None


def is_shortcut(graph: Graph, tensor: str) -> bool:
    """Whether a float tensor is nothing but integers that a layer made."""
    node = graph.producer.get(tensor)
    return node is not None and node.op_type == "DequantizeLinear" and not graph.is_constant(node.input[0])


def is_stored(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is in the file, as floats or as integers behind a DequantizeLinear."""
    node = graph.producer.get(tensor)
    return graph.is_constant(tensor) or (
        node is not None and node.op_type == "DequantizeLinear" and graph.is_constant(node.input[0])
    )


def made_in(model: ModelProto, names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that a node of the main graph makes."""
    made = {name for node in model.graph.node for name in node.output}
    return frozenset(name for name in names if name in made)


def step_by_step(model: ModelProto, types: ModelProto, tensors: Collection[str]) -> ModelProto:
    """A network that computes every layer from given integers, not from those of the layer in front.

    Args:
        model: a quantized or lowered network.
        types: the same with its tensors' types inferred.
        tensors: the integer tensors.

    Returns:
        a network with the inputs of `model` and one more, `given_name(t)`, for each t; its outputs are the tensors.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in (*types.graph.value_info, *types.graph.output)}
    _rename_reads(copy.graph, {name: given_name(name) for name in tensors})
    del copy.graph.output[:]
    for name in sorted(tensors):
        copy.graph.output.append(onnx.ValueInfoProto(name=name) if name not in known else known[name])
        copy.graph.input.append(_given(name, known.get(name)))
    return copy


def given_name(tensor: str) -> str:
    """The input of a `step_by_step` network that stands for `tensor`."""
    return tensor + _GIVEN


def _given(name: str, value: ValueInfoProto | None) -> ValueInfoProto:
    given = helper.make_tensor_value_info(given_name(name), onnx.TensorProto.FLOAT, None)
    if value is not None and value.type.HasField("tensor_type"):
        given.type.CopyFrom(value.type)
    return given


def _rename_reads(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name in names:
                node.input[slot] = names[name]
        for body in subgraphs(node):
            _rename_reads(body, names)
