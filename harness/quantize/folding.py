"""Rewrites that leave a network's function alone: constants, batch normalization, inference-time no-ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from harness.quantize.graph import Graph, Use, attribute, drop_unused_initializers, set_initializer, subgraphs
from harness.quantize.runtime import RUNTIME_ERRORS

#: A folded constant may not grow the file: results above this size stay computed at run time.
MAX_FOLDED_ELEMENTS = 1 << 20

#: Operators whose result is not a function of their inputs, or whose folding would undo a quantization.
_NEVER_FOLDED = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)


def constants_to_initializers(model: ModelProto) -> None:
    """Turn Constant nodes into initializers; those of a kind without tensor form (sparse, strings) stay."""
    kept: list[NodeProto] = []
    for node in model.graph.node:
        value = _constant_value(node)
        if value is None:
            kept.append(node)
        else:
            value.name = node.output[0]
            model.graph.initializer.append(value)
    _replace_nodes(model, kept)


def _constant_value(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain:
        return None
    for entry in node.attribute:
        if entry.name == "value":
            copy = TensorProto()
            copy.CopyFrom(entry.t)
            return copy
        if entry.name in {"value_float", "value_floats"}:
            return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(entry), np.float32))
        if entry.name in {"value_int", "value_ints"}:
            return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(entry), np.int64))
    return None


def fold_constants(model: ModelProto) -> None:
    """Compute once what depends on constants only (a reshaped weight, a normalized table)."""
    graph = Graph(model)
    known = set(graph.initializers)
    foldable: list[NodeProto] = []
    for node in graph.nodes:
        inputs = [name for name in node.input if name]
        if not inputs or node.op_type in _NEVER_FOLDED or any(True for _ in subgraphs(node)):
            continue
        if node.domain not in {"", "ai.onnx"} or any(name not in known for name in inputs):
            continue
        if any(name in graph.outputs for name in node.output):
            continue
        foldable.append(node)
        known.update(name for name in node.output if name)
    if not foldable:
        return
    values = _evaluate(model, foldable)
    done = {name for name, value in values.items() if value.size <= MAX_FOLDED_ELEMENTS}
    folded = [node for node in foldable if all(not name or name in done for name in node.output)]
    gone = {id(node) for node in folded}
    for node in folded:
        for name in node.output:
            if name:
                set_initializer(model, name, values[name])
    _replace_nodes(model, [node for node in model.graph.node if id(node) not in gone])


def _evaluate(model: ModelProto, nodes: list[NodeProto]) -> dict[str, NDArray[Any]]:
    """Values of constant nodes, by the runtime itself; nothing where it cannot compute them."""
    wanted = [name for node in nodes for name in node.output if name]
    needed = {name for node in nodes for name in node.input}
    part = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "constants",
            [],
            [onnx.ValueInfoProto(name=name) for name in wanted],
            [tensor for tensor in model.graph.initializer if tensor.name in needed],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, {}), strict=True))
    except RUNTIME_ERRORS:
        return {}  # left as they are: the network still computes them itself


def remove_no_ops(model: ModelProto) -> dict[str, str]:
    """Remove Identity and (inference-time) Dropout.

    Returns:
        name of each removed layer → the tensor that carries its value now.
    """
    removed: dict[str, str] = {}
    while True:
        graph = Graph(model)
        node = next((node for node in graph.nodes if _is_no_op(graph, node)), None)
        if node is None:
            break
        source, target = node.input[0], node.output[0]
        if target in graph.outputs:
            # The network's output keeps its name: the layer before takes it over.
            producer = graph.producer[source]
            for index, name in enumerate(producer.output):
                if name == source:
                    producer.output[index] = target
            for use in graph.uses[source]:
                use.node.input[use.slot] = target
            removed = {layer: target if tensor == source else tensor for layer, tensor in removed.items()}
            carrier = target
        else:
            for use in graph.uses[target]:
                use.node.input[use.slot] = source
            carrier = source
        removed[node.name] = carrier
        model.graph.node.remove(node)
    return removed


def _is_no_op(graph: Graph, node: NodeProto) -> bool:
    if node.domain or node.op_type not in {"Identity", "Dropout"}:
        return False
    if node.op_type == "Dropout":
        if (
            len(node.output) > 1
            and node.output[1]
            and (graph.uses.get(node.output[1]) or node.output[1] in graph.outputs)
        ):
            return False
        training = node.input[2] if len(node.input) > 2 else ""
        if training and not (graph.is_constant(training) and not graph.array(training).any()):
            return False
    source, target = node.input[0], node.output[0]
    if target in graph.read_in_bodies:
        return False
    if target in graph.outputs:
        # Renaming needs a producer in this graph whose own name nobody outside relies on.
        return source in graph.producer and source not in graph.outputs and source not in graph.read_in_bodies
    return True


def fold_batch_norm(model: ModelProto) -> dict[str, str]:
    """Fold BatchNormalization and per-channel Add after a convolution into its weights and bias.

    Returns:
        name of each folded layer → name of the convolution that computes it now.
    """
    folded: dict[str, str] = {}
    while True:
        graph = Graph(model)
        for conv in graph.nodes:
            if conv.op_type not in {"Conv", "ConvTranspose"} or conv.domain or not _constant_parameters(graph, conv):
                continue
            use = graph.sole_use(conv.output[0])
            factors = _affine(graph, conv, use) if use is not None else None
            if use is None or factors is None:
                continue
            _apply(graph, conv, *factors)
            folded[use.node.name] = conv.name
            conv.output[0] = use.node.output[0]
            model.graph.node.remove(use.node)
            break
        else:
            break
    drop_unused_initializers(model)
    return folded


def _constant_parameters(graph: Graph, conv: NodeProto) -> bool:
    names = [name for name in conv.input[1:] if name]
    return bool(names) and all(graph.is_constant(name) and graph.array(name).dtype == np.float32 for name in names)


def _out_channels(graph: Graph, conv: NodeProto) -> int:
    weight = graph.array(conv.input[1])
    return int(weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * attribute(conv, "group", 1))


def _affine(graph: Graph, conv: NodeProto, use: Use) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(factor, offset) per output channel of the layer after a convolution, None when it is not of that form."""
    node = use.node
    channels = _out_channels(graph, conv)
    if node.op_type == "BatchNormalization" and not node.domain:
        if use.slot or attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
            return None
        if not all(graph.is_constant(name) for name in node.input[1:5]):
            return None
        scale, bias, mean, variance = (graph.array(name).astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return factor, bias - mean * factor
    if node.op_type in {"Add", "Mul"} and not node.domain:
        other = node.input[1 - use.slot]
        if not graph.is_constant(other):
            return None
        value = graph.array(other).astype(np.float64)
        rank = graph.array(conv.input[1]).ndim
        # Broadcast of [C, 1, …] or [1, C, 1, …] against [N, C, …] is per channel; anything else is not.
        padded = (1,) * (rank - value.ndim) + value.shape
        if value.ndim > rank or padded != (1, channels, *(1,) * (rank - 2)):
            return None
        flat = value.reshape(-1)
        return (np.ones(channels), flat) if node.op_type == "Add" else (flat, np.zeros(channels))
    return None


def _apply(graph: Graph, conv: NodeProto, factor: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """Give the convolution new parameters of its own: others may share the old ones."""
    weight = graph.array(conv.input[1]).astype(np.float64)
    if conv.op_type == "Conv":
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    else:
        # [Cin, Cout/group, …]: rows of one group share that group's output channels.
        groups = attribute(conv, "group", 1)
        per_row = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        weight = weight * per_row.reshape(*per_row.shape, *(1,) * (weight.ndim - 2))
    bias = graph.array(conv.input[2]).astype(np.float64) if len(conv.input) > 2 and conv.input[2] else 0.0
    new_bias = np.broadcast_to(bias, factor.shape) * factor + offset
    for slot, (suffix, value) in enumerate((("weight", weight), ("bias", new_bias)), start=1):
        name = conv.input[slot] if len(conv.input) > slot else ""
        if not name or len(graph.uses[name]) > 1 or name in graph.read_in_bodies:
            name = graph.free_name(f"{conv.name}.{suffix}")
        set_initializer(graph.model, name, value.astype(np.float32))
        if len(conv.input) > slot:
            conv.input[slot] = name
        else:
            conv.input.append(name)


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    kept = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        kept.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(kept)
