"""Recurrent layers that stay one node: their weights are stored as int8 and their arithmetic is float."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, drop_unused_initializers, replace_nodes, set_initializer
from harness.quantize.recurrent.cell import GATES, constant_weights
from harness.quantize.rulebooks.rules import RuleBook
from harness.quantize.weights import quantize_weights


def takes_int8_weights(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is a recurrent layer whose weights can be stored as int8."""
    return node.op_type in GATES and not node.domain and constant_weights(graph, node)


def int8_weights(model: ModelProto, rules: RuleBook, but: Collection[str] = ()) -> tuple[str, ...]:
    """Store the weights of the recurrent layers of a network as int8, read through DequantizeLinear.

    Both directions share the scale of a row: DequantizeLinear has one axis.

    Args:
        model: a network; changed in place.
        rules: scale kind and rounding of the environment's weights.
        but: names of layers to leave alone.

    Returns:
        names of the layers whose weights are int8 now.
    """
    graph = Graph(model)
    done: list[str] = []
    shared: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        if node.name not in but and takes_int8_weights(graph, node):
            for slot in (1, 2):
                tensor = node.input[slot]
                if tensor not in shared:
                    made = _stored(model, graph, tensor, rules)
                    nodes.append(made)
                    shared[tensor] = made.output[0]
                node.input[slot] = shared[tensor]
            done.append(node.name)
        nodes.append(node)
    if done:
        replace_nodes(model, nodes)
        drop_unused_initializers(model)
    return tuple(done)


def _stored(model: ModelProto, graph: Graph, tensor: str, rules: RuleBook) -> NodeProto:
    quantized = quantize_weights(graph.array(tensor), 1, rules)
    stem = graph.free_name(f"{tensor}.int8")
    set_initializer(model, stem, quantized.values)
    set_initializer(model, f"{stem}.scale", quantized.scale)
    set_initializer(model, f"{stem}.zero_point", np.zeros(quantized.scale.shape, quantized.values.dtype))
    made = onnx.helper.make_node(
        "DequantizeLinear",
        [stem, f"{stem}.scale", f"{stem}.zero_point"],
        [f"{stem}.dequantized"],
        name=f"{stem}.DequantizeLinear",
    )
    if quantized.axis is not None:
        made.attribute.append(onnx.helper.make_attribute("axis", quantized.axis))
    return made
