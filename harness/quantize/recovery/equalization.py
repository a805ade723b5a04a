"""Cross-layer equalization: moving scale between a layer and its readers, channel by channel.

relu(k·x) = k·relu(x) for k > 0, so a channel can be made larger where it is produced and smaller where it is read
(Nagel et al., 'Data-free quantization through weight equalization and bias correction', 2019, section 4.1; Meller et
al., 'Same, same but different', 2019). Two aims. `balanced`: weights of like ranges, from the weights alone and by
powers of two, so that not one bit of the network's output changes. `filled`: each channel of an activation fills the
tensor's whole range; this needs data, and a Clip is moved along with the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, attribute, drop_unused_initializers, set_initializer
from harness.quantize.scales import fix_position
from harness.quantize.units import clip_bounds

FloatArray = NDArray[np.float64]

#: Layers between producer and reader that keep k·x = k·f(x) for each channel and k > 0.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
#: A channel is scaled by at most 2^6: beyond that it carries next to nothing.
_MOST_DOUBLINGS = 6
#: Sweeps over all links; chains of convolutions settle in a few.
_SWEEPS = 50


@dataclass(frozen=True)
class Link:
    """A tensor between convolutions whose channels can be scaled.

    Args:
        maker: the convolution that produces it.
        bends: layers between, in order; a Clip among them moves with the scale.
        readers: the convolutions that read it.
        tensor: what they read.
        high: upper bound of the Clip, None where open.
        clip: name of the Clip.
    """

    maker: str
    bends: tuple[str, ...]
    readers: tuple[str, ...]
    tensor: str
    high: float | None
    clip: str | None


@dataclass(frozen=True)
class Scaling:
    """What becomes of a link.

    Args:
        factor: per channel, positive.
        high: the new upper bound of its Clip, None without one.
    """

    factor: FloatArray
    high: float | None


def find_links(graph: Graph) -> list[Link]:
    """The tensors behind convolutions that nothing but scalable layers touch, up to convolutions or matrix products."""
    return [
        link
        for node in graph.nodes
        if node.op_type == "Conv" and not node.domain and _own_parameters(graph, node)
        if (link := _link(graph, node)) is not None
    ]


def _own_parameters(graph: Graph, node: NodeProto) -> bool:
    names = [name for name in node.input[1:] if name]
    return all(
        graph.is_constant(name)
        and len(graph.uses[name]) == 1
        and name not in graph.read_in_bodies
        and graph.array(name).dtype == np.float32
        for name in names
    )


def _link(graph: Graph, maker: NodeProto) -> Link | None:
    tensor = maker.output[0]
    bends: list[str] = []
    high, clip = None, None
    while tensor not in graph.outputs and tensor not in graph.read_in_bodies:
        uses = graph.uses[tensor]
        if uses and all(use.slot == 0 and _reads_channels(graph, use.node) for use in uses):
            return Link(maker.name, tuple(bends), tuple(use.node.name for use in uses), tensor, high, clip)
        if len(uses) != 1 or uses[0].slot or uses[0].node.domain:
            return None
        node = uses[0].node
        if node.op_type == "Clip":
            found = clip_bounds(graph, node)
            if found is None or found[0] != 0 or clip is not None:
                return None
            high, clip = found[1], node.name if found[1] is not None else None
        elif (node.op_type not in _HOMOGENEOUS and not _drops_positions(graph, node)) or len(
            [name for name in node.output if name]
        ) > 1:
            return None
        bends.append(node.name)
        tensor = node.output[0]
    return None


def _reads_channels(graph: Graph, node: NodeProto) -> bool:
    """Whether a layer reads axis 1 with weights of its own, [outputs, channels, …]."""
    if node.domain or not _own_parameters(graph, node):
        return False
    if node.op_type == "Conv":
        return True
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "transA", 0) == 0
    return node.op_type == "Gemm" and plain and attribute(node, "transB", 0) == 1


def _drops_positions(graph: Graph, node: NodeProto) -> bool:
    """Whether a layer takes axes of length 1 behind the channels away, as stands before a recurrent layer."""
    if node.op_type != "Squeeze" or len(node.input) < 2 or not graph.is_constant(node.input[1]):
        return False
    rank = len(graph.shape(node.input[0]) or ())
    return rank > 2 and all(int(axis) % rank > 1 for axis in graph.array(node.input[1]).reshape(-1))


class _Weights:
    """Parameters of convolutions while they are scaled."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.changed: dict[str, FloatArray] = {}

    def scale(self, link: Link, factor: FloatArray) -> None:
        """Multiply the maker's output channels, divide the readers' input channels."""
        for name in self._graph.node(link.maker).input[1:]:
            if name:
                value = self._array(name)
                self.changed[name] = value * factor.reshape(-1, *(1,) * (value.ndim - 1))
        for reader in link.readers:
            name, grouped = self._columns(reader)
            per_column = factor.reshape(grouped.shape[0], 1, grouped.shape[2], *(1,) * (grouped.ndim - 3))
            self.changed[name] = (grouped / per_column).reshape(-1, *grouped.shape[2:])

    def rows(self, link: Link) -> FloatArray:
        """Largest |w| of each output channel of the maker."""
        weight = np.abs(self._array(self._graph.node(link.maker).input[1]))
        return np.asarray(weight.reshape(len(weight), -1).max(axis=1, initial=0.0))

    def columns(self, link: Link) -> FloatArray:
        """Largest |w| that any reader has for each channel it reads."""
        peaks = []
        for reader in link.readers:
            grouped = np.abs(self._columns(reader)[1])
            taps = grouped.reshape(*grouped.shape[:3], -1).max(axis=(1, 3), initial=0.0)
            peaks.append(taps.reshape(-1))
        return np.asarray(np.max(peaks, axis=0))

    def _columns(self, reader: str) -> tuple[str, FloatArray]:
        """Name and values of a reader's weights, shape (groups, outputs of a group, inputs of a group, …)."""
        node = self._graph.node(reader)
        value = self._array(node.input[1])
        return node.input[1], value.reshape(int(attribute(node, "group", 1)), -1, *value.shape[1:])

    def _array(self, name: str) -> FloatArray:
        return self.changed[name] if name in self.changed else self._graph.array(name).astype(np.float64)


def balanced(graph: Graph, links: Sequence[Link]) -> dict[str, Scaling]:
    """Link's maker → scaling that evens out the ranges of weights; by powers of two.

    A factor changes only where it gains a factor of two or more: repeating the step changes nothing.
    Links with an upper bound are left out: a bounded activation is not homogeneous.
    """
    weights = _Weights(graph)
    factors: dict[str, FloatArray] = {}
    for _ in range(_SWEEPS):
        settled = True
        for link in links:
            if link.high is not None:
                continue
            rows, columns = weights.rows(link), weights.columns(link)
            alive = (rows > 0) & (columns > 0)
            exponents = np.log2(np.divide(columns, rows, out=np.ones_like(rows), where=alive)) / 2
            step = np.exp2(np.trunc(np.clip(exponents, -_MOST_DOUBLINGS, _MOST_DOUBLINGS)))
            if (step != 1).any():
                settled = False
                weights.scale(link, step)
                factors[link.maker] = factors.get(link.maker, np.ones_like(step)) * step
        if settled:
            break
    return {maker: Scaling(factor, None) for maker, factor in factors.items()}


def filled(links: Sequence[Link], peaks: Mapping[str, FloatArray], *, power_of_two: bool) -> dict[str, Scaling]:
    """Link's maker → scaling after which the largest value of each channel is the tensor's.

    Args:
        links: the tensors.
        peaks: link's tensor → largest magnitude per channel.
        power_of_two: scales are 2^k: the tensor is stretched to end where int8 does, at 127·2^k.
    """
    scalings = {}
    for link in links:
        peak = peaks[link.tensor]
        top = float(peak.max(initial=0.0)) if link.high is None else link.high
        if top <= 0:
            continue
        end = 127.0 * 2.0 ** -fix_position(0.0, top) if power_of_two else top
        factor = end / np.maximum(peak, top / 2**_MOST_DOUBLINGS)
        # Channels that are cut at the bound scale with the bound; those that carry nothing stay as they are.
        factor = np.where((peak <= 0) | (peak >= top), end / top, factor)
        scalings[link.maker] = Scaling(factor, None if link.high is None else end)
    return scalings


def equalized(graph: Graph, links: Sequence[Link], scalings: Mapping[str, Scaling]) -> ModelProto:
    """A copy of the network with its channels scaled; names of layers and tensors stay.

    Args:
        graph: the network.
        links: its scalable tensors.
        scalings: link's maker → how to scale it.
    """
    model = ModelProto()
    model.CopyFrom(graph.model)
    weights = _Weights(graph)
    nodes = {node.name: node for node in model.graph.node}
    for link in links:
        scaling = scalings.get(link.maker)
        if scaling is None:
            continue
        weights.scale(link, scaling.factor)
        if link.clip is not None and scaling.high is not None:
            bound = graph.free_name(f"{link.clip}.high")
            set_initializer(model, bound, np.asarray(scaling.high, np.float32))
            nodes[link.clip].input[2] = bound
    for name, value in weights.changed.items():
        set_initializer(model, name, value.astype(np.float32))
    drop_unused_initializers(model)
    return model
