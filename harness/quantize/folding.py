"""Rewrites that leave a network's function alone: constants, inference-time no-ops, layers nothing reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from harness.errors import UserError
from harness.quantize.external import is_light
from harness.quantize.graph import Graph, attribute, drop_unused_initializers, replace_nodes, set_initializer, subgraphs
from harness.quantize.runtime import open_session, run_session

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
    replace_nodes(model, kept)


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
    sizes = {name: int(np.prod(tensor.dims)) for name, tensor in graph.initializers.items()}
    gone: set[int] = set()
    # The results of a large network's constants are not held all at once.
    at_once = {} if is_light(model) else _evaluate(model, foldable)
    # One that the runtime refuses must not keep the others.
    for nodes in [foldable] if at_once else [[node] for node in foldable]:
        values = at_once or _evaluate(model, nodes)
        done: set[str] = set()
        for node in nodes:
            # A weight that is transposed or scaled is as large as before; a table made from its shape is not.
            room = max([MAX_FOLDED_ELEMENTS, *(sizes.get(name, 0) for name in node.input)])
            made = {name: values[name] for name in node.output if isinstance(values.get(name), np.ndarray)}
            if made and sum(value.size for value in made.values()) <= room:
                done.update(made)
                sizes |= {name: value.size for name, value in made.items()}
        folded = [node for node in nodes if all(not name or name in done for name in node.output)]
        gone |= {id(node) for node in folded}
        for node in folded:
            for name in node.output:
                if name:
                    set_initializer(model, name, values[name])
    replace_nodes(model, [node for node in model.graph.node if id(node) not in gone])


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
    try:
        return dict(zip(wanted, run_session(open_session(part, "constants"), {}, "constants", wanted), strict=True))
    except UserError:
        return {}  # left as they are: the network still computes them itself


def ranges_from_scalars(model: ModelProto) -> bool:
    """Give Range scalars where it has constants of shape [1]: the runtime takes those only while they are not known.

    Returns:
        whether there was any.
    """
    graph, found = Graph(model), False
    for node in graph.nodes:
        if node.op_type != "Range" or node.domain:
            continue
        for slot, name in enumerate(node.input):
            if graph.is_constant(name) and graph.shape(name) == (1,):
                scalar = graph.free_name(f"{name}.scalar")
                set_initializer(model, scalar, graph.array(name).reshape(()))
                node.input[slot] = scalar
                graph.reindex()
                found = True
    return found


def casts_from_likes(model: ModelProto) -> None:
    """Write CastLike as Cast where inference knows the type: what is cast is then a constant, or a no-op."""
    graph = Graph(model)
    for node in graph.nodes:
        kind = graph.element_type(node.input[1]) if node.op_type == "CastLike" and not node.domain else None
        if kind:
            node.op_type = "Cast"
            del node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("to", kind))


def remove_no_ops(model: ModelProto, *, casts: bool = False) -> dict[str, str]:
    """Remove Identity and (inference-time) Dropout.

    Args:
        model: the network; changed in place.
        casts: remove also Cast of a tensor that has the type already; types must be inferred.

    Returns:
        name of each removed layer → the tensor that carries its value now.
    """
    removed: dict[str, str] = {}
    while True:
        graph = Graph(model)
        node = next((node for node in graph.nodes if _is_no_op(graph, node, casts=casts)), None)
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
            removed = {layer: source if tensor == target else tensor for layer, tensor in removed.items()}
            carrier = source
        removed[node.name] = carrier
        model.graph.node.remove(node)
    return removed


def _is_no_op(graph: Graph, node: NodeProto, *, casts: bool) -> bool:
    if casts and node.op_type == "Cast" and not node.domain:
        if graph.element_type(node.input[0]) != attribute(node, "to"):
            return False
    elif node.domain or node.op_type not in {"Identity", "Dropout"}:
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


def remove_unread(model: ModelProto) -> None:
    """Remove layers whose results nothing reads, and constants with them."""
    while True:
        graph = Graph(model)
        read = {name for name, uses in graph.uses.items() if uses} | set(graph.outputs) | graph.read_in_bodies
        kept = [node for node in graph.nodes if any(name in read for name in node.output)]
        if len(kept) == len(graph.nodes):
            break
        replace_nodes(model, kept)
    drop_unused_initializers(model)
