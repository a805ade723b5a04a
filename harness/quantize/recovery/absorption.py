"""High-bias absorption: what a channel never falls below is added where it is read, not where it is made.

relu(x) = relu(x - c) + c wherever x ≥ c, so c can leave the producer's bias for the readers'; the tensor then needs a
smaller range (Nagel et al., 'Data-free quantization through weight equalization and bias correction', 2019, section
4.1.3; there c is guessed from batch normalization, here it is the smallest value seen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto

from harness.quantize.graph import Graph, attribute, set_initializer
from harness.quantize.recovery.equalization import FloatArray, Link


def absorbable(graph: Graph, links: Sequence[Link], floors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Link's maker → what can be taken out of each channel; only where some channel never reaches zero.

    Readers that pad would miss it at the border, and a Clip's upper bound would have to move by channel.

    Args:
        graph: the network.
        links: its scalable tensors.
        floors: link's tensor → smallest value per channel.
    """
    found = {}
    for link in links:
        floor = np.maximum(floors[link.tensor], 0.0)
        bends = [graph.node(name).op_type for name in link.bends]
        padded = any(_pads(graph, reader) for reader in link.readers)
        biased = len(graph.node(link.maker).input) > 2
        if floor.any() and bends == ["Relu"] and link.clip is None and not padded and biased:
            found[link.maker] = floor
    return found


def _pads(graph: Graph, reader: str) -> bool:
    node = graph.node(reader)
    return attribute(node, "auto_pad", "NOTSET") in {"SAME_UPPER", "SAME_LOWER"} or any(attribute(node, "pads", []))


def absorbed(graph: Graph, links: Sequence[Link], amounts: Mapping[str, FloatArray]) -> ModelProto:
    """A copy of the network with the amounts moved from the makers' biases to the readers'."""
    model = ModelProto()
    model.CopyFrom(graph.model)
    nodes = {node.name: node for node in model.graph.node}
    biases: dict[str, FloatArray] = {}
    for link in links:
        amount = amounts.get(link.maker)
        if amount is None:
            continue
        bias = nodes[link.maker].input[2]
        biases[bias] = biases.get(bias, graph.array(bias).astype(np.float64)) - amount
        for reader in link.readers:
            node = nodes[reader]
            weight = graph.array(node.input[1]).astype(np.float64)
            groups = int(attribute(node, "group", 1))
            taps = weight.reshape(groups, -1, weight.shape[1], int(np.prod(weight.shape[2:]))).sum(axis=3)
            extra = np.einsum("goc,gc->go", taps, amount.reshape(groups, -1)).reshape(-1)
            if len(node.input) < 3:
                node.input.append(graph.free_name(f"{reader}.bias"))
                biases[node.input[2]] = np.zeros(len(weight))
            name = node.input[2]
            biases[name] = (
                biases.get(name, graph.array(name).astype(np.float64) if graph.is_constant(name) else 0.0) + extra
            )
    for name, value in biases.items():
        set_initializer(model, name, value.astype(np.float32))
    return model
