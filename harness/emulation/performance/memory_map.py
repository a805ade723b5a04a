"""The external memory map of a MathWorks processor: which buffer lies where, and which sizes follow a known rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.emulation.performance.hardware import Placed, input_images, place_layers
from harness.emulation.performance.layers import LayerShape, NetworkShape, Volume
from harness.emulation.performance.mathworks import (
    flattened_for,
    kernel_tiles,
    padded_elements,
    product_positions,
    tiles_of_kernel,
)
from harness.emulation.performance.processors import Processor

#: rule: byte-exact on both published maps; estimated: no rule is published, the note says what the size is.
Basis = Literal["rule", "estimated"]

#: Images that the input (and the result) has room for; the default of MathWorks' compiler.
FRAMES = 30
_BIAS_BYTES = 4
#: ConvWeightData of LogoNet on zcu102_int8, 66 pages: so many values a weight, and a 3x3 kernel of one channel.
_WEIGHT_VALUES, _KERNEL_VALUES = 8, 4
#: InstructionData of LogoNet on zcu102_int8, 37 pages, over its 8 layers in the convolution module, of 64 threads.
_LAYER_INSTRUCTION_BYTES, _INSTRUCTION_THREADS = 4_849_664 // 8, 64


@dataclass(frozen=True, slots=True)
class MemoryBuffer:
    """One buffer of the map.

    Args:
        name: as MathWorks' compiler calls it.
        offset_bytes: of its first byte.
        size_bytes: in whole pages.
        basis: rule or estimated.
        note: the rule, or what the estimate is.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    basis: Basis
    note: str


@dataclass(frozen=True)
class MemoryMap(Mapping[str, MemoryBuffer]):
    """The buffers by name, in the order of their offsets; each ends where the next begins.

    Args:
        buffers: without those that a network does not need.
        page_bytes: sizes are multiples of it.
        page_source: where the page comes from.
    """

    buffers: tuple[MemoryBuffer, ...]
    page_bytes: int
    page_source: str

    def __getitem__(self, name: str) -> MemoryBuffer:
        """The buffer of that name."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the offsets."""
        return (buffer.name for buffer in self.buffers)

    def __len__(self) -> int:
        """How many buffers."""
        return len(self.buffers)

    @property
    def total_bytes(self) -> int:
        """Where the last buffer ends."""
        return sum(buffer.size_bytes for buffer in self.buffers)


def memory_map(network: NetworkShape, processor: Processor) -> MemoryMap:
    """Where the buffers of a network lie in the memory beside a processor.

    InputData and FCWeightData are byte-exact on the published maps (LogoNet on zcu102_int8, MNIST-FC on
    arria10soc_single). For the others no rule is published; ours give the published sizes of those two networks.
    """
    return _Planner(network, processor).plan()


class _Planner:
    def __init__(self, network: NetworkShape, processor: Processor) -> None:
        self.network = network
        self.processor = processor
        self.placed = place_layers(network, processor)
        self.conv = [item for item in self.placed if item.module == "conv"]
        self.fc = [item for item in self.placed if item.module == "fc"]
        self.custom = [item for item in self.placed if item.module == "custom"]

    def plan(self) -> MemoryMap:
        page = self.processor.page_bytes
        buffers: list[MemoryBuffer] = []
        offset = 0
        for name, size, basis, note in self._sizes():
            whole = _pages(size, page)
            if whole:
                buffers.append(MemoryBuffer(name, offset, whole, basis, note))
                offset += whole
        return MemoryMap(tuple(buffers), page, self.processor.page_source)

    def _sizes(self) -> Iterator[tuple[str, int, Basis, str]]:
        lanes, bytes_each = self.processor.lanes, self.processor.element_bytes
        images = input_images(self.network)
        frame = sum(padded_elements(image, lanes) for image in images) * bytes_each
        yield (
            "InputData",
            FRAMES * frame,
            "rule",
            f"{FRAMES} frames, channels in groups of {lanes}, {_bytes(bytes_each)} a value",
        )
        result = sum(padded_elements(volume, lanes) for volume in self._results()) * bytes_each
        yield (
            "OutputResult",
            FRAMES * result,
            "estimated",
            f"no published rule: {FRAMES} frames of the last layers' results; one page on both published maps, as here",
        )
        yield (
            "SchedulerData",
            1 if self.conv or self.custom else 0,
            "estimated",
            "no published rule: one page where there is more than fully connected layers, as on both published maps",
        )
        yield (
            "SystemBuffer",
            self._system_bytes(),
            "estimated",
            "no published rule: inputs, results of all layers but the fully connected ones, each in pages of its own, "
            "and one page for those; gives the size on both published maps",
        )
        yield (
            "InstructionData",
            self._instruction_bytes(),
            "estimated",
            "no published rule: LogoNet's on zcu102_int8 for each layer outside the fc module, more with fewer threads",
        )
        yield (
            "ConvWeightData",
            sum(self._kernel_values(item.layer) for item in self._convolutions()) * bytes_each,
            "estimated",
            f"no published rule: {_WEIGHT_VALUES} values a weight, {_KERNEL_VALUES} a 3x3 kernel, channels padded, as "
            "LogoNet's on zcu102_int8: an upper estimate",
        )
        yield (
            "FCWeightData",
            sum(self._fc_bytes(item) for item in self.fc),
            "rule",
            f"padded inputs x outputs at {_bytes(bytes_each)}, and {_BIAS_BYTES} bytes a bias",
        )

    def _convolutions(self) -> list[Placed]:
        return [item for item in self.conv if item.layer.kind in {"conv", "depthwise", "transposed"}]

    def _kernel_values(self, layer: LayerShape) -> int:
        tiles, inside = kernel_tiles(layer, self.processor.lanes), tiles_of_kernel(layer)
        taps = layer.kernel[0] * layer.kernel[1]
        return tiles // inside * self.processor.lanes**2 * (_WEIGHT_VALUES * taps + _KERNEL_VALUES * inside)

    def _results(self) -> list[Volume]:
        """What leaves the processor: read by the host or by layers in software."""
        leaving: dict[str, Volume] = {}
        names = set(self.network.outputs)
        for item in reversed(self.placed):
            wanted = item.layer.name in names
            if item.free and wanted and item.source:
                names.add(item.source)
            elif item.module is None and not item.free:
                names.update(parent for parent in item.layer.parents if parent)
            elif item.module is not None and wanted:
                leaving[item.layer.name] = item.layer.output
        return list(leaving.values())

    def _system_bytes(self) -> int:
        page, lanes, each = self.processor.page_bytes, self.processor.lanes, self.processor.element_bytes
        volumes = list(input_images(self.network))
        # the normalized input takes the place of the input
        volumes += [item.layer.output for item in (*self.conv, *self.custom) if not _first(item)]
        size = sum(_pages(padded_elements(volume, lanes) * each, page) for volume in volumes)
        return size + (page if self.fc else 0)

    def _instruction_bytes(self) -> int:
        layers = sum(not _first(item) for item in (*self.conv, *self.custom))
        more = max(1.0, _INSTRUCTION_THREADS / self.processor.conv_threads)
        return max(1, round(layers * _LAYER_INSTRUCTION_BYTES * more))

    def _fc_bytes(self, item: Placed) -> int:
        layer, each = item.layer, self.processor.element_bytes
        depth = layer.inputs[0].elements // product_positions(layer)
        fed_by = flattened_for(item, self.network)
        padded = padded_elements(fed_by, self.processor.lanes) if depth == fed_by.elements else depth
        return padded * _outputs(item) * each + self._biases(item) * _BIAS_BYTES

    def _biases(self, item: Placed) -> int:
        """Its own, or those of an addition that was folded into it."""
        if item.layer.biases:
            return item.layer.biases
        folded = (other for other in self.placed if other.free and item.layer.name in other.layer.parents)
        return next((_outputs(item) for other in folded if other.layer.kind == "add"), 0)


def _first(item: Placed) -> bool:
    """The normalization of an input of the network."""
    return item.module == "custom" and item.source == "" and len(item.layer.inputs) == 1


def _outputs(item: Placed) -> int:
    """Outputs of a fully connected layer for one position."""
    return item.layer.output.elements // product_positions(item.layer)


def _pages(size: int, page: int) -> int:
    return -(-size // page) * page


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
