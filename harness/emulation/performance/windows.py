"""The window that a layer moves over its operand: read from the attributes of its operator."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto

from harness.emulation.performance.layers import Volume
from harness.quantize.graph import Graph, attribute


@dataclass(frozen=True, slots=True)
class Window:
    """How a layer walks over height and width; the default is that of a layer without a window.

    Args:
        kernel: height and width.
        strides: down and across.
        pads: top, left, bottom, right.
        dilations: down and across.
        groups: of a convolution.
        axes: how many it moves along, 3 for volumes.
    """

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    axes: int = 2


def window_of(graph: Graph, node: NodeProto, first: Volume) -> Window:
    """The window of a convolution, pooling or mean.

    Args:
        graph: of the network.
        node: the layer's operator.
        first: shape of its first operand.
    """
    given: list[int] = list(attribute(node, "kernel_shape", []))
    if not given and node.op_type in {"Conv", "ConvTranspose"}:
        given = [size or 1 for size in (graph.shape(node.input[1]) or (1, 1, 1, 1))[2:]]
    if node.op_type in {"GlobalMaxPool", "GlobalAveragePool", "ReduceMean"}:
        given = [first.height, first.width]
    rank = len(given)
    pads: list[int] = list(attribute(node, "pads", [0] * (2 * rank)))
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        pads = _same_pads(node, first, given)
        pads = pads if auto_pad == "SAME_UPPER" else pads[rank:] + pads[:rank]
    begin, end = pads[:rank], pads[rank:]
    return Window(
        kernel=_two(given),
        strides=_two(list(attribute(node, "strides", [1] * rank))),
        pads=(*_two(begin, 0), *_two(end, 0)),
        dilations=_two(list(attribute(node, "dilations", [1] * rank))),
        groups=int(attribute(node, "group", 1)),
        axes=max(rank, 2),
    )


def _same_pads(node: NodeProto, first: Volume, kernel: list[int]) -> list[int]:
    strides = list(attribute(node, "strides", [1] * len(kernel)))
    sizes = [first.height, first.width][-len(kernel) :]
    totals = [
        max(0, (math.ceil(size / step) - 1) * step + k - size)
        for size, step, k in zip(sizes, strides, kernel, strict=True)
    ]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _two(values: list[int], fill: int = 1) -> tuple[int, int]:
    """Height and width; a one-dimensional window lies across."""
    if not values:
        return fill, fill
    if len(values) == 1:
        return fill, int(values[0])
    return math.prod(values[:-1]), int(values[-1])
