"""Which layers a MathWorks processor computes, in which of its modules, and which follow one another there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.emulation.performance.layers import LayerKind, LayerShape, NetworkShape, Volume
from harness.emulation.performance.processors import Processor

Module = Literal["conv", "fc", "custom"]

_MODULES: Mapping[LayerKind, Module] = {
    "conv": "conv",
    "depthwise": "conv",
    "transposed": "conv",
    "maxpool": "conv",
    "avgpool": "conv",
    "activation": "conv",
    "fc": "fc",
    "add": "custom",
    "mul": "custom",
    "concat": "custom",
    "resize": "custom",
    "normalization": "custom",
}
#: Operators that change names and shapes, not values or their order.
_FREE = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"})
#: Functions without a unit in the shipped bitstreams (docs/emulation.md: on an FPGA computed in software).
_SOFT_FUNCTIONS = frozenset({"Sigmoid", "Tanh", "Elu", "Softplus"})
_SUMMING: frozenset[LayerKind] = frozenset({"conv", "depthwise", "transposed", "fc"})
_ELEMENTWISE: frozenset[LayerKind] = frozenset({"add", "mul", "normalization"})


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a layer is computed.

    Args:
        layer: the layer.
        module: of the processor; None for software and for layers that are nothing to compute.
        free: there is nothing to compute: its shape or its constants go into a layer beside it.
        why: why it is software or free; None for what a module computes.
        source: what it reads, seen through free layers: a layer's name, "" for an input of the network.
        group: number, from 1, of its layer group; None outside the modules.
    """

    layer: LayerShape
    module: Module | None
    free: bool
    why: str | None
    source: str
    group: int | None = None


def place_layers(network: NetworkShape, processor: Processor) -> tuple[Placed, ...]:
    """Where each layer is computed, in the network's order."""
    return _Placer(network, processor).place()


def input_images(network: NetworkShape) -> tuple[Volume, ...]:
    """The inputs of a network as the processor stores them.

    An input that is transposed first (channels last in the file) is stored as that makes it. A vector, and a matrix,
    count as one-channel images: so has it the one published network that begins with a fully connected layer (MNIST-FC:
    784 values take 784 pixels of its memory map, not 196).
    """
    turned = [layer for layer in network.layers if _turns_input(layer, network)]
    volumes = [turned[0].output] if turned else list(network.inputs.values())
    return tuple(Volume(1, it.channels, it.width) if it.height == 1 else it for it in volumes)


def _turns_input(layer: LayerShape, network: NetworkShape) -> bool:
    """It alone reads the network's one input, and changes its layout."""
    alone = len(network.inputs) == 1 and sum("" in other.parents for other in network.layers) == 1
    return alone and layer.op_type == "Transpose" and layer.parents == ("",)


def _by_constants(layer: LayerShape) -> bool:
    """It adds or multiplies constants, each value by itself."""
    return layer.kind in _ELEMENTWISE and len(layer.inputs) == 1


class _Placer:
    def __init__(self, network: NetworkShape, processor: Processor) -> None:
        self.network = network
        self.int8 = processor.data_type == "int8"
        self.placed: dict[str, Placed] = {}
        self.readers = Counter(parent for layer in network.layers for parent in set(layer.parents) if parent)
        #: group → the layer it ends with so far
        self.ends: dict[int, str] = {}

    def place(self) -> tuple[Placed, ...]:
        for layer in self.network.layers:
            module, free, why = self._where(layer)
            source = self._source(layer.parents[0])
            item = Placed(layer, module, free, why, source, self._group(layer, module) if module else None)
            self.placed[layer.name] = item
        return tuple(self.placed.values())

    def _source(self, parent: str) -> str:
        while parent and self.placed[parent].free:
            parent = self.placed[parent].source
        return parent

    def _where(self, layer: LayerShape) -> tuple[Module | None, bool, str | None]:
        if why := self._nothing_to_compute(layer):
            return None, True, why
        if why := self._software(layer):
            return None, False, why
        return _MODULES[layer.kind], False, None

    def _nothing_to_compute(self, layer: LayerShape) -> str | None:
        if layer.op_type in _FREE:
            return "changes no value: nothing to compute"
        if _turns_input(layer, self.network):
            return "the host writes the input in the processor's own layout"
        if layer.op_type == "Pad" and self._read_by_windows(layer):
            return "padding of the layer behind it"
        return self._folded(layer) if _by_constants(layer) else None

    def _folded(self, layer: LayerShape) -> str | None:
        """Where its constants go: into the sums before it, or into the pass that normalizes the input."""
        parent = self.placed.get(layer.parents[0])
        before = self.placed.get(self._source(layer.parents[0]))
        if parent is None or before is None or before.module is None:
            return None
        alone = self.readers[parent.layer.name] == 1 and parent.layer.name not in self.network.outputs
        if not alone or parent.layer.fused:
            return None
        if before.layer.kind in _SUMMING and not set(before.layer.fused) - {"BatchNormalization"}:
            return f"constants folded into {before.layer.name}"
        if before.source == "" and _by_constants(before.layer):
            return f"one pass with {before.layer.name}"
        return None

    def _read_by_windows(self, layer: LayerShape) -> bool:
        readers = [other for other in self.network.layers if layer.name in other.parents]
        windowed = {"conv", "depthwise", "maxpool", "avgpool"}
        return bool(readers) and all(reader.kind in windowed for reader in readers)

    def _normalizes_input(self, layer: LayerShape) -> bool:
        """Nothing but constants stands between it and an input of the network."""
        source = self._source(layer.parents[0])
        return _by_constants(layer) and (not source or self._normalizes_input(self.placed[source].layer))

    def _software(self, layer: LayerShape) -> str | None:
        if self.int8 and self._normalizes_input(layer):
            return "an int8 processor leaves the normalization of its input to the host"
        if layer.op_type == "Div" and not _by_constants(layer):
            return "a quotient of two activations has no unit in the processor"
        if layer.axes > 2:
            return f"windows over {layer.axes} axes have no unit in the processor; no published figure"
        if layer.kind in _SUMMING - {"fc"} and len(layer.inputs) > 1:
            return "its weights are computed: the processor takes constant ones"
        if layer.op_type in _SOFT_FUNCTIONS:
            return f"the shipped bitstreams have no unit for {layer.op_type}; no published figure"
        if layer.op_type == "LRN":
            return "the shipped bitstreams are built without local response normalization"
        if layer.op_type == "Softmax":
            return "the shipped bitstreams are built without softmax"
        if layer.kind == "fc" and len(layer.inputs) > 1:
            return "a product of two activations has no unit in the processor"
        if layer.kind not in _MODULES:
            return f"{layer.op_type} has no unit in the processor; no published figure"
        return None

    def _group(self, layer: LayerShape, module: Module) -> int:
        """Its number: that of the layer before, where it goes straight on from that group's end."""
        before = self.placed.get(self._source(layer.parents[0])) if len(set(layer.parents)) == 1 else None
        if (
            before is not None
            and before.module == module
            and before.group is not None
            and self.ends[before.group] == before.layer.name
            and self.readers[before.layer.name] == 1
        ):
            self.ends[before.group] = layer.name
            return before.group
        number = len(self.ends) + 1
        self.ends[number] = layer.name
        return number
