"""Half, bfloat16 and double networks: their layers compute in float32, their inputs and outputs keep their types.

Only float32 has int8 rules, so the parts of a network that hold weights are widened (double: narrowed) and stand
between Cast nodes. What lies outside those parts keeps its type and, bit for bit, its arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from harness.quantize.graph import Graph, attribute, drop_unused_initializers, set_initializer, subgraphs

_OTHER_FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.BFLOAT16: "tensor(bfloat16)",
    TensorProto.DOUBLE: "tensor(double)",
}
#: What makes a part of the network worth widening; recurrent layers count, their products are matrix products.
_HOLDS_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
#: Rounding to the narrow type is what these are for.
_ABOUT_THE_TYPE = frozenset({"Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear"})


def widen(model: ModelProto) -> None:
    """Let the parts that hold weights compute in float32, between Cast nodes.

    Args:
        model: opset ≥ 13, constants as initializers, nodes in order; changed in place.
    """
    if not _mentions_other_floats(model):
        return
    types = _Types(model)
    graph = types.graph
    chosen = _parts_with_weights(graph, [node for node in graph.nodes if types.can_widen(node)], types)
    if chosen:
        _Widening(model, graph, types, chosen).apply()


def _mentions_other_floats(model: ModelProto) -> bool:
    declared = (value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info))
    constants = (tensor.data_type for tensor in model.graph.initializer)
    made = (attribute(node, "to", 0) for node in model.graph.node if node.op_type == "Cast")
    return any(kind in _OTHER_FLOATS for group in (declared, constants, made) for kind in group)


class _Types:
    """Element types of a network's tensors, and which layers could compute in float32 as well."""

    def __init__(self, model: ModelProto) -> None:
        try:
            typed = onnx.shape_inference.infer_shapes(model)
        except (RuntimeError, ValueError):
            typed = model  # an operator without a rule: what stays unknown keeps its type
        self.graph = Graph(model)
        self._known = Graph(typed)
        self._opset = {entry.domain: entry.version for entry in model.opset_import}

    def other(self, name: str) -> int | None:
        """Element type of a tensor where it is one of the other floats."""
        kind = self._known.element_type(name) if name else None
        return kind if kind in _OTHER_FLOATS else None

    def can_widen(self, node: NodeProto) -> bool:
        """Whether every other float that the layer makes has the type of one that it reads, and float32 is allowed."""
        if node.domain or node.op_type in _ABOUT_THE_TYPE or any(True for _ in subgraphs(node)):
            return False
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset.get("", 1), "")
        except onnx.defs.SchemaError:
            return False
        allowed = {entry.type_param_str: set(entry.allowed_type_strs) for entry in schema.type_constraints}
        read = set()
        for slot, name in enumerate(node.input):
            if self.other(name) is None:
                continue
            kind = schema.inputs[min(slot, len(schema.inputs) - 1)].type_str
            if "tensor(float)" not in allowed.get(kind, {kind}) or not self._fits(name):
                return False
            read.add(kind)
        made = {
            schema.outputs[min(slot, len(schema.outputs) - 1)].type_str
            for slot, name in enumerate(node.output)
            if self.other(name) is not None
        }
        return bool(made) and made <= read

    def _fits(self, name: str) -> bool:
        """Whether a constant survives: a double can lie beyond float32."""
        if not self.graph.is_constant(name) or self.graph.element_type(name) != TensorProto.DOUBLE:
            return True
        value = self.graph.array(name).astype(np.float64)
        return bool((np.abs(value[np.isfinite(value)]) <= np.finfo(np.float32).max).all())


def _parts_with_weights(graph: Graph, nodes: list[NodeProto], types: _Types) -> list[NodeProto]:
    """The layers that other floats connect, directly or not, with a layer that has weights."""
    names = {node.name: node for node in nodes}
    reached = {node.name for node in nodes if node.op_type in _HOLDS_WEIGHTS}
    pending = list(reached)
    while pending:
        node = names[pending.pop()]
        beside = {graph.producer[name].name for name in node.input if types.other(name) and name in graph.producer}
        beside |= {use.node.name for name in node.output if types.other(name) for use in graph.uses[name]}
        fresh = (beside & names.keys()) - reached
        reached |= fresh
        pending.extend(fresh)
    return [node for node in nodes if node.name in reached]


class _Widening:
    def __init__(self, model: ModelProto, graph: Graph, types: _Types, chosen: list[NodeProto]) -> None:
        self.model = model
        self.graph = graph
        self.types = types
        self.chosen = {node.name for node in chosen}
        self.made = {name for node in chosen for name in node.output if types.other(name) is not None}
        self.wide: dict[str, str] = {}
        self.taken: set[str] = set()

    def apply(self) -> None:
        """Rewrite the network."""
        nodes: list[NodeProto] = []
        for node in self.model.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            if node.name not in self.chosen:
                nodes.append(copy)
                continue
            for slot, name in enumerate(node.input):
                if self.types.other(name) is not None:
                    copy.input[slot] = self._widened(name, nodes)
            after: list[NodeProto] = []
            for slot, name in enumerate(node.output):
                kind = self.types.other(name)
                if kind is None:
                    continue
                copy.output[slot] = self.wide[name] = self._name(f"{name}.float32")
                if self._read_narrow(name):
                    after.append(self._cast(self.wide[name], name, kind))
            nodes.extend([copy, *after])
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        # their types are no longer those of the file
        del self.model.graph.value_info[:]
        drop_unused_initializers(self.model)

    def _widened(self, name: str, nodes: list[NodeProto]) -> str:
        if name not in self.wide:
            self.wide[name] = self._name(f"{name}.float32")
            if self.graph.is_constant(name):
                value = self.graph.array(name).astype(np.float32)
                set_initializer(self.model, self.wide[name], value)
            else:
                nodes.append(self._cast(name, self.wide[name], TensorProto.FLOAT))
        return self.wide[name]

    def _read_narrow(self, name: str) -> bool:
        outside = name in self.graph.outputs or name in self.graph.read_in_bodies
        return outside or any(use.node.name not in self.chosen for use in self.graph.uses[name])

    def _cast(self, source: str, target: str, kind: int) -> NodeProto:
        return onnx.helper.make_node("Cast", [source], [target], name=self._name(f"{target}.Cast"), to=kind)

    def _name(self, wanted: str) -> str:
        name, number = self.graph.free_name(wanted), 1
        while name in self.taken:
            number += 1
            name = self.graph.free_name(f"{wanted}_{number}")
        self.taken.add(name)
        return name
