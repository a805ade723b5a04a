"""Reading an ONNX network and looking things up in its graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from harness.data.network_files import is_outside, network_digest, read_light
from harness.quantize import external

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Use:
    """One place where a tensor is read: input number `slot` of `node`."""

    node: NodeProto
    slot: int


def sha256_of(path: Path) -> str:
    """Hex sha256 of a network: of its file; with external data, of the file and its data files.

    Raises:
        UserError: it cannot be read.
    """
    return network_digest(Path(path))


def read_model(path: Path) -> ModelProto:
    """Load an ONNX file; the large tensors of a large network stay on disk (`Graph.array` reads them).

    Args:
        path: the file; external data is looked for beside it.

    Raises:
        UserError: no such file, truncated, not ONNX, or its external data is missing, cut off or elsewhere.
    """
    path = Path(path)
    return external.settle(read_light(path), str(path))


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401  # its type is its name's
    """Value of a node's attribute as a plain Python object, `default` where it is absent."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a control-flow node (If, Loop, Scan); nothing for any other node."""
    for entry in node.attribute:
        if entry.type == AttributeProto.GRAPH:
            yield entry.g
        elif entry.type == AttributeProto.GRAPHS:
            yield from entry.graphs


def names_read_inside(graph: GraphProto) -> set[str]:
    """Every tensor name read anywhere inside a body, nested ones and its outputs included."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for body in subgraphs(node):
            names |= names_read_inside(body)
    return names


class Graph:
    """An index over a `ModelProto`: who makes and who reads each tensor, constants, shapes.

    The index is a snapshot: call `reindex()` after nodes were added or removed.

    Args:
        model: the network; changed in place by the methods that say so.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.reindex()

    def reindex(self) -> None:
        """Build the index anew from the model."""
        graph = self.model.graph
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs: list[str] = [value.name for value in graph.input if value.name not in self.initializers]
        self.outputs: list[str] = [value.name for value in graph.output]
        self.producer: dict[str, NodeProto] = {}
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.read_in_bodies: set[str] = set()
        for node in graph.node:
            for name in node.output:
                if name:
                    self.producer[name] = node
            for slot, name in enumerate(node.input):
                if name:
                    self.uses[name].append(Use(node, slot))
            for body in subgraphs(node):
                self.read_in_bodies |= names_read_inside(body)
        self._values = {value.name: value for group in (graph.value_info, graph.input, graph.output) for value in group}
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes of the main graph, in their (topological) order."""
        return list(self.model.graph.node)

    def node(self, name: str) -> NodeProto:
        """The node of that name; names are unique after `prepare`."""
        return next(node for node in self.model.graph.node if node.name == name)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self.initializers

    def array(self, name: str) -> NDArray[Any]:
        """Value of an initializer; of one that stays on disk, mapped and read-only."""
        tensor = self.initializers[name]
        if is_outside(tensor):
            return external.values(tensor)
        if name not in self._arrays:
            self._arrays[name] = external.values(tensor)
        return self._arrays[name]

    def element_type(self, name: str) -> int | None:
        """ONNX element type of a tensor, None when shape inference could not tell."""
        if name in self.initializers:
            return self.initializers[name].data_type
        value = self._values.get(name)
        if value is None or not value.type.HasField("tensor_type"):
            return None
        return value.type.tensor_type.elem_type or None

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape with None for a dimension that is not fixed; None when even the rank is unknown."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        value = self._values.get(name)
        if value is None or not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)

    def value_info(self, name: str) -> onnx.ValueInfoProto | None:
        """What is known of a tensor's type."""
        return self._values.get(name)

    def sole_use(self, name: str) -> Use | None:
        """The only reader of a tensor, None when it has several, none, or is visible outside the main graph."""
        uses = self.uses.get(name, [])
        if len(uses) != 1 or name in self.outputs or name in self.read_in_bodies:
            return None
        return uses[0]

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with a number appended when a tensor or node of that name exists."""
        taken = set(self.initializers) | set(self.producer) | set(self._values) | self.read_in_bodies
        taken |= {node.name for node in self.model.graph.node}
        return take_name(wanted, taken)


def take_name(wanted: str, taken: set[str]) -> str:
    """The wanted name, with a number behind it where it is taken; from now on it is."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Give the network these nodes, of which some may be its own, in place of those it has."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def set_initializer(model: ModelProto, name: str, value: NDArray[Any]) -> None:
    """Replace the initializer of that name, or add one."""
    tensor = external.stored(value, name, outside=external.is_light(model))
    for existing in model.graph.initializer:
        if existing.name == name:
            existing.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def drop_unused_initializers(model: ModelProto) -> None:
    """Remove constants that nothing reads any more, control-flow bodies considered."""
    read = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    for node in model.graph.node:
        for body in subgraphs(node):
            read |= names_read_inside(body)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) != len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def metadata(model: ModelProto) -> Mapping[str, str]:
    """The model's `metadata_props` as a dictionary."""
    return {entry.key: entry.value for entry in model.metadata_props}
