"""What a layer's rounding is judged by: second moments of what it reads and of what it should make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.quantize.graph import Graph, attribute
from harness.quantize.units import Unit

FloatArray = NDArray[np.float64]

#: Positions of a layer's output looked at in all passes together, per weight of an output; twice as many gained
#: nothing on MobileNet v1 and SqueezeNet.
_POSITIONS_PER_WEIGHT = 64
#: The same at least: a layer with few weights would see too little of the images (fewer move agreement by 2 points).
_LEAST_POSITIONS = 65536


@dataclass(frozen=True)
class Matrices:
    """Weights as one matrix per group: real output = values @ input + bias.

    Args:
        values: shape (groups, outputs of a group, inputs of an output).
        kernel: shape of an output channel's weights as the operator stores them.
        form: how to put them back: Conv, Gemm, GemmT or MatMul.
    """

    values: FloatArray
    kernel: tuple[int, ...]
    form: str

    def restored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the matrices' shape in the operator's own layout."""
        flat = values.reshape(-1, values.shape[-1])
        if self.form == "Conv":
            return flat.reshape(len(flat), *self.kernel)
        return flat if self.form == "GemmT" else np.ascontiguousarray(flat.T)

    def matched(self, values: FloatArray) -> FloatArray:
        """Values of the operator's layout in the matrices' shape."""
        return (values if self.form in {"Conv", "GemmT"} else values.T).reshape(self.values.shape)


def matrices(graph: Graph, unit: Unit) -> Matrices | None:
    """The layer's weights as matrices; None for layers that are no plain sum of products per output."""
    node = graph.node(unit.name)
    if unit.weight is None or unit.weight.slot != 1:
        return None
    weight = graph.array(unit.weight.tensor).astype(np.float64)
    if unit.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        return Matrices(weight.reshape(groups, weight.shape[0] // groups, -1), weight.shape[1:], "Conv")
    if unit.op_type == "Gemm":
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            return None
        if attribute(node, "transB", 0):
            return Matrices(weight[None], weight.shape[1:], "GemmT")
        return Matrices(weight.T[None], weight.shape[:1], "Gemm")
    if unit.op_type == "MatMul" and weight.ndim == 2:
        return Matrices(weight.T[None], weight.shape[:1], "MatMul")
    return None


@dataclass(frozen=True)
class Moments:
    """Sums over positions of a layer's output; x is what one output reads, y what it should be.

    Args:
        count: positions.
        xx: sum of x·xᵀ, shape (groups, K, K).
        x: sum of x, shape (groups, K).
        xy: sum of x·yᵀ, shape (groups, K, O).
        y: sum of y, shape (groups, O).
        pass_x: mean of x in each pass, shape (passes, groups, K).
        pass_y: mean of y in each pass, shape (passes, groups, O).
    """

    count: int
    xx: FloatArray
    x: FloatArray
    xy: FloatArray
    y: FloatArray
    pass_x: FloatArray
    pass_y: FloatArray

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.xx + other.xx,
            self.x + other.x,
            self.xy + other.xy,
            self.y + other.y,
            np.concatenate([self.pass_x, other.pass_x]),
            np.concatenate([self.pass_y, other.pass_y]),
        )


def moments(
    node: NodeProto,
    weights: Matrices,
    given: NDArray[Any],
    wanted: NDArray[Any],
    random: np.random.Generator,
    *,
    passes: int = 1,
    means_only: bool = False,
) -> Moments | None:
    """Moments of one pass.

    Args:
        node: the layer's operator.
        weights: its float weights.
        given: the input it gets, as quantized before it.
        wanted: the output it had in the float network, before its activation function.
        random: chooses which positions are looked at.
        passes: how many passes there are.
        means_only: leave the second moments zero, for layers whose moments would not fit memory.

    Returns:
        None when the two do not belong together (an operator form that is not covered).
    """
    if weights.form == "Conv":
        x, y = _convolution(node, weights, given, wanted, random, passes)
    else:
        inputs, outputs = weights.values.shape[2], weights.values.shape[1]
        x, y = given.reshape(1, -1, inputs), wanted.reshape(1, -1, outputs)
    if x.shape[1] != y.shape[1]:
        return None
    x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
    sums = x.sum(axis=1, dtype=np.float64), y.sum(axis=1, dtype=np.float64)
    means = sums[0][None] / x.shape[1], sums[1][None] / x.shape[1]
    if means_only:
        nothing = np.zeros((len(x), 1, 1))
        return Moments(x.shape[1], nothing, sums[0], nothing, sums[1], *means)
    # Around their means: products of single precision would lose what varies beside a large constant.
    mean_x, mean_y = (mean[0][:, None, :] for mean in means)
    x, y = x - mean_x.astype(np.float32), y - mean_y.astype(np.float32)
    transposed = x.transpose(0, 2, 1)
    outer = x.shape[1] * mean_x.transpose(0, 2, 1)
    return Moments(
        x.shape[1],
        np.matmul(transposed, x).astype(np.float64) + np.matmul(outer, mean_x),
        sums[0],
        np.matmul(transposed, y).astype(np.float64) + np.matmul(outer, mean_y),
        sums[1],
        *means,
    )


def _convolution(
    node: NodeProto,
    weights: Matrices,
    given: NDArray[Any],
    wanted: NDArray[Any],
    random: np.random.Generator,
    passes: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(x, y) of shapes (groups, positions, K) and (groups, positions, O)."""
    groups, outputs, _ = weights.values.shape
    kernel = weights.kernel[1:]
    rank = len(kernel)
    strides = list(attribute(node, "strides", [1] * rank))
    dilations = list(attribute(node, "dilations", [1] * rank))
    out_shape = wanted.shape[2:]
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    before, after = _pads(node, given.shape[2:], out_shape, strides, reach)
    padded = np.pad(given, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    total = int(np.prod(out_shape)) * len(given)
    limit = max(_LEAST_POSITIONS, _POSITIONS_PER_WEIGHT * weights.values.shape[2]) // passes
    chosen = np.arange(total) if total <= limit else np.sort(random.choice(total, limit, replace=False))
    sample, *places = np.unravel_index(chosen, (len(given), *out_shape))
    taps = np.meshgrid(*(np.arange(size) for size in kernel), indexing="ij")
    index: list[NDArray[Any]] = [sample.reshape(-1, 1)]
    for place, tap, stride, step in zip(places, taps, strides, dilations, strict=True):
        index.append(place.reshape(-1, 1) * stride + tap.reshape(1, -1) * step)
    channels_last = np.moveaxis(padded, 1, -1)
    picked = channels_last[tuple(index)]  # (positions, taps, channels)
    x = picked.reshape(len(chosen), picked.shape[1], groups, -1).transpose(2, 0, 3, 1)
    values = np.moveaxis(wanted, 1, -1)[(sample, *places)]
    return x.reshape(groups, len(chosen), -1), values.reshape(len(chosen), groups, outputs).transpose(1, 0, 2)


def _pads(
    node: NodeProto, shape: tuple[int, ...], out_shape: tuple[int, ...], strides: list[int], reach: list[int]
) -> tuple[list[int], list[int]]:
    rank = len(shape)
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        both = [
            max((out - 1) * stride + span - size, 0)
            for out, stride, span, size in zip(out_shape, strides, reach, shape, strict=True)
        ]
        small, large = [pad // 2 for pad in both], [pad - pad // 2 for pad in both]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    pads = list(attribute(node, "pads", [0] * 2 * rank)) if auto == "NOTSET" else [0] * 2 * rank
    return pads[:rank], pads[rank:]
