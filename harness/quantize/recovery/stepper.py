"""Running a network piece by piece, so that what comes next can still be changed by what was seen so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, names_read_inside, set_initializer, subgraphs
from harness.quantize.runtime import open_session, run_session

Feed = Mapping[str, NDArray[Any]]


class Stepper:
    """Walks through a network on a few samples, holding only the tensors that later nodes read.

    Args:
        graph: a network in topological order, its nodes named; its model is not changed.
        feeds: the inputs of each pass.
        watched: tensors to hold although no later node reads them.
        what: how to call the network in an error.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feed], watched: Sequence[str], what: str) -> None:
        self._graph = graph
        self._nodes = graph.nodes
        self._what = what
        self._place = {node.name: index for index, node in enumerate(self._nodes)}
        self._done = 0
        self._given: dict[tuple[str, int], NDArray[Any]] = {}
        self._live: dict[str, list[NDArray[Any]]] = {name: [feed[name] for feed in feeds] for name in graph.inputs}
        self._passes = len(feeds)
        self._last_read = dict.fromkeys(watched, len(self._nodes))
        for index, node in enumerate(self._nodes):
            for name in _read_by(node):
                self._last_read[name] = max(self._last_read.get(name, index), index)

    def give(self, node: str, slot: int, value: NDArray[Any]) -> None:
        """Have a node that has not run yet read this constant as input number `slot`."""
        self._given[node, slot] = value

    def before(self, node: str) -> None:
        """Run everything in front of a node."""
        self._run_to(self._place[node])

    def after(self, node: str) -> None:
        """Run a node and everything in front of it."""
        self._run_to(self._place[node] + 1)

    def input_values(self, node: str, slot: int) -> list[NDArray[Any]]:
        """What the node about to run reads as input number `slot`, pass by pass."""
        name = self._nodes[self._place[node]].input[slot]
        if self._graph.is_constant(name):
            return [self._graph.array(name)] * self._passes
        return self._live[name]

    def values(self, tensor: str) -> list[NDArray[Any]]:
        """What a tensor held in each pass; it must be watched or still to be read."""
        return self._live[tensor]

    def forget(self, tensor: str) -> None:
        """A watched tensor is needed no more, unless a later node reads it."""
        place = (index for index, node in enumerate(self._nodes) if tensor in _read_by(node))
        self._last_read[tensor] = max(place, default=-1)
        self._drop_the_read()

    def _run_to(self, end: int) -> None:
        if end <= self._done:
            return
        nodes = self._nodes[self._done : end]
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in _read_by(node)}
        wanted = sorted(name for name in made if self._last_read.get(name, -1) >= end)
        inputs = sorted(name for name in read - made if name in self._live)
        self._done = end
        if wanted:
            session = open_session(self._piece(nodes, inputs, wanted, read), self._what, threads=1)
            results: list[list[NDArray[Any]]] = [[] for _ in wanted]
            for number in range(self._passes):
                feed = {name: self._live[name][number] for name in inputs}
                for collected, value in zip(results, run_session(session, feed, self._what, wanted), strict=True):
                    collected.append(value)
            self._live |= dict(zip(wanted, results, strict=True))
        ran = {node.name for node in nodes}
        self._given = {place: value for place, value in self._given.items() if place[0] not in ran}
        self._drop_the_read()

    def _drop_the_read(self) -> None:
        for name in [name for name in self._live if self._last_read.get(name, -1) < self._done]:
            del self._live[name]

    def _piece(self, nodes: list[NodeProto], inputs: list[str], outputs: list[str], read: set[str]) -> ModelProto:
        source = self._graph.model
        known = {name: self._graph.value_info(name) for name in outputs}
        graph = onnx.helper.make_graph(
            [self._with_given(node) for node in nodes],
            "piece",
            [_declared(name, self._live[name][0]) for name in inputs],
            [_typed(name, info) for name, info in known.items()],
        )
        model = onnx.helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
        model.functions.extend(source.functions)
        model.graph.initializer.extend(
            self._graph.initializers[name] for name in sorted(read) if self._graph.is_constant(name)
        )
        for node in nodes:
            for slot in range(len(node.input) + 1):
                if (node.name, slot) in self._given:
                    set_initializer(model, _given_name(node.name, slot), self._given[node.name, slot])
        return model

    def _with_given(self, node: NodeProto) -> NodeProto:
        slots = [slot for slot in range(len(node.input) + 1) if (node.name, slot) in self._given]
        if not slots:
            return node
        copy = NodeProto()
        copy.CopyFrom(node)
        for slot in slots:
            if slot == len(copy.input):
                copy.input.append("")
            copy.input[slot] = _given_name(node.name, slot)
        return copy


def _given_name(node: str, slot: int) -> str:
    return f"{node}.given.{slot}"


def _read_by(node: NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for body in subgraphs(node):
        names |= names_read_inside(body)
    return names


def _declared(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    element_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_value_info(name, element_type, [None] * value.ndim)


def _typed(name: str, info: onnx.ValueInfoProto | None) -> onnx.ValueInfoProto:
    """The name with its type alone: the runtime infers a shape, and complains where a file's differs."""
    if info is None or not info.type.HasField("tensor_type"):
        return onnx.ValueInfoProto(name=name)
    return onnx.helper.make_tensor_value_info(name, info.type.tensor_type.elem_type, None)
