"""Writing the nodes that take a recurrent layer's place, named after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from harness.quantize.graph import Graph, take_name
from harness.quantize.marks import mark_float


class Writer:
    """Collects nodes and constants; each node makes one tensor of its own name.

    Args:
        graph: the network they will join.
        layer: name of the layer whose place they take, the first part of every new name.
        reason: why its gates and its state stay float.
    """

    def __init__(self, graph: Graph, layer: str, reason: str) -> None:
        self._graph = graph
        self.model: ModelProto = graph.model
        self.layer = layer
        self.reason = reason
        self.nodes: list[NodeProto] = []
        self._taken = set(graph.initializers) | set(graph.producer) | set(graph.inputs) | graph.read_in_bodies
        self._taken |= {node.name for node in graph.nodes}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, value: NDArray[Any], role: str) -> str:
        """Name of an initializer of that value; equal ones are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = self._free(f"{self.layer}/{role}")
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
            self._constants[key] = name
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Name of an int64 constant [len(values)]."""
        return self.constant(np.array(values, np.int64), f"constants/{'x'.join(map(str, values))}")

    def add(self, op: str, inputs: list[str], role: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX's own
        """A node that rule books judge; returns the tensor it makes."""
        return self.several(op, inputs, role, 1, **attributes)[0]

    def without_first_axis(self, source: str, role: str) -> str:
        """A tensor [1, …] as […]: what it was made from where it was given that axis just before."""
        maker = self._graph.producer.get(source)
        if maker is not None and maker.op_type == "Unsqueeze" and len(maker.input) > 1:
            axes = maker.input[1]
            if self._graph.is_constant(axes) and self._graph.array(axes).reshape(-1).tolist() == [0]:
                return maker.input[0]
        return self.add("Squeeze", [source, self.integers(0)], role)

    def gate(self, op: str, inputs: list[str], role: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX's own
        """A node of gates or state, which stays float."""
        name = self.add(op, inputs, role, **attributes)
        mark_float(self.nodes[-1], self.reason)
        return name

    def parts(self, source: str, sizes: list[int], role: str) -> list[str]:
        """A tensor cut along its last axis; itself when there is one part."""
        if len(sizes) == 1:
            return [source]
        names = self.several("Split", [source, self.integers(*sizes)], role, len(sizes), axis=-1)
        mark_float(self.nodes[-1], self.reason)
        return names

    def several(self, op: str, inputs: list[str], role: str, count: int, **attributes: Any) -> list[str]:  # noqa: ANN401
        """A node with any number of results."""
        name = self._free(f"{self.layer}/{role}")
        outputs = [name] if count == 1 else [self._free(f"{name}/{index}") for index in range(count)]
        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def call(self, op: str, inputs: list[str], output: str, role: str, **attributes: Any) -> None:  # noqa: ANN401
        """A node that makes a tensor of a given name."""
        name = self._free(f"{self.layer}/{role}")
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=name, **attributes))

    def _free(self, wanted: str) -> str:
        return take_name(wanted, self._taken)
