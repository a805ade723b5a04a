"""Branches that are no choice: an If whose condition shapes decide becomes the branch that is taken.

Exporters write `if x.shape[0] == 1:` as an If, whose bodies no rule book reaches. Two findings make it plain code:

1. The condition is decided by shapes that the file fixes: the branch is put in the If's place.
2. The condition is open, but with one of the branches the network is ill-typed (a recurrent layer would get a
   tensor of four axes): that branch can only end in an error, so a network that works takes the other one.

Both leave the results of every input that the network accepts as they are. Loops and other Ifs stay.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from harness.quantize.graph import Graph, drop_unused_initializers, names_read_inside, replace_nodes, subgraphs
from harness.quantize.static_values import LARGEST, static_value

#: What the ONNX package raises on an ill-typed network.
_INFERENCE_ERRORS: tuple[type[Exception], ...] = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError)
#: A network with more open Ifs than this is a program; trying branch by branch would take longer than it saves.
MAX_TRIED = 32

#: An If, by the first tensor it makes, and whether its then-branch is the one taken.
Decision = tuple[str, bool]


def fold_control_flow(model: ModelProto) -> int:
    """Put the branch in the place of each decided If, in a network whose nodes are named.

    Identity nodes and Constant nodes come along with a branch: remove them afterwards.

    Args:
        model: changed in place.

    Returns:
        how many Ifs are gone.
    """
    if not any(node.op_type == "If" for node in model.graph.node):
        return 0
    before = _unread(model)
    decisions = _decisions(model)
    for decision in decisions:
        _join_in(model, decision)
    if decisions:
        _drop_unread(model, before)
    return len(decisions)


def _decisions(model: ModelProto) -> list[Decision]:
    """Every decided If in an order in which they can be joined in: an inner one after the one around it."""
    trial = _without_weights(model)
    made = _fold_decided(trial)
    tried: set[str] = set()
    while len(tried) < MAX_TRIED:
        node = next((n for n in trial.graph.node if n.op_type == "If" and n.output[0] not in tried), None)
        if node is None:
            break
        tried.add(node.output[0])
        possible = []
        for taken in (True, False):
            copy = _copy(trial)
            decision = (node.output[0], taken)
            _join_in(copy, decision)
            more = _fold_decided(copy)
            if _well_typed(copy):
                possible.append((copy, [decision, *more]))
        if len(possible) == 1:
            trial, decisions = possible[0]
            made += decisions
    return made


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy in which large constants are inputs of the same type: inference needs no more of them."""
    graph = model.graph
    copy = ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = graph.name
    copy.graph.node.extend(graph.node)
    copy.graph.output.extend(graph.output)
    copy.graph.input.extend(graph.input)
    known = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if sum(tensor.dims) <= LARGEST:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in known:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def _well_typed(model: ModelProto) -> bool:
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except _INFERENCE_ERRORS:
        return False
    except (RuntimeError, ValueError):
        return True  # says nothing about types: an operator that inference does not know
    return True


def _fold_decided(model: ModelProto) -> list[Decision]:
    """Join in every branch that shapes decide, until none is left: one may decide the next. Changes `model`."""
    made: list[Decision] = []
    while True:
        found = _decided(model)
        if found is None:
            return made
        _join_in(model, found)
        made.append(found)


def _decided(model: ModelProto) -> Decision | None:
    if not any(node.op_type == "If" for node in model.graph.node):
        return None
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):
        return None
    _add_constants(typed)
    graph = Graph(typed)
    for node in model.graph.node:
        if node.op_type == "If" and not node.domain:
            value = static_value(graph, node.input[0])
            if value is not None and value.size == 1 and value.reshape(-1)[0] is not None:
                return node.output[0], bool(value.reshape(-1)[0])
    return None


def _add_constants(model: ModelProto) -> None:
    """List the constants that branches brought along as initializers, where lookups find them."""
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]


def _join_in(model: ModelProto, decision: Decision) -> None:
    """Put a branch in the place of its If."""
    graph = model.graph
    position = next(index for index, other in enumerate(graph.node) if other.output and other.output[0] == decision[0])
    node = NodeProto()
    node.CopyFrom(graph.node[position])
    body = GraphProto()
    body.CopyFrom(next(e.g for e in node.attribute if e.name == ("then_branch" if decision[1] else "else_branch")))
    _rename(body, _fresh_names(Graph(model), body))
    joined = list(body.node)
    for index, (value, target) in enumerate(zip(body.output, node.output, strict=True)):
        if target:
            name = f"{node.name}/result{index}" if index else f"{node.name}/result"
            joined.append(onnx.helper.make_node("Identity", [value.name], [target], name=name))
    graph.initializer.extend(body.initializer)
    replace_nodes(model, [*graph.node[:position], *joined, *graph.node[position + 1 :]])


def _fresh_names(graph: Graph, body: GraphProto) -> dict[str, str]:
    """New names for what a branch makes where the network has such a tensor already."""
    made = [name for node in body.node for name in node.output if name] + [t.name for t in body.initializer]
    taken = set(graph.initializers) | set(graph.producer) | {value.name for value in graph.model.graph.input}
    names: dict[str, str] = {}
    for name in made:
        fresh, number = name, 1
        while fresh in taken or (fresh != name and fresh in made):
            number += 1
            fresh = f"{name}_{number}"
        taken.add(fresh)
        if fresh != name:
            names[name] = fresh
    return names


def _rename(body: GraphProto, names: dict[str, str]) -> None:
    """Rename tensors in a body, and in the bodies within it that read them."""
    if not names:
        return
    for value in (*body.output, *body.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in body.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in body.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
        for inner in subgraphs(node):
            own = {tensor.name for tensor in inner.initializer} | {value.name for value in inner.input}
            own |= {name for other in inner.node for name in other.output}
            read = names_read_inside(inner)
            _rename(inner, {old: new for old, new in names.items() if old not in own and old in read})


def _unread(model: ModelProto) -> set[str]:
    """First outputs of the nodes whose results nobody reads."""
    graph = Graph(model)
    seen = {name for name, uses in graph.uses.items() if uses} | set(graph.outputs) | graph.read_in_bodies
    return {node.output[0] for node in graph.nodes if node.output and not any(name in seen for name in node.output)}


def _drop_unread(model: ModelProto, but: set[str]) -> None:
    """Remove what only decided conditions were computed from; what nobody read before stays."""
    while True:
        gone = _unread(model) - but
        if not gone:
            break
        replace_nodes(model, [node for node in model.graph.node if not node.output or node.output[0] not in gone])
    drop_unused_initializers(model)
