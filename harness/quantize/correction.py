"""Analytic bias correction: take out the mean error that rounded weights add to each output channel.

E[(Ŵ - W)·x] = (Ŵ - W)·E[x] needs only the mean of each input channel (Nagel et al., 'Data-free quantization
through weight equalization and bias correction', 2019, section 4.2; there E[x] comes from batch norm).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.quantize.graph import Graph, attribute
from harness.quantize.placement import Plan
from harness.quantize.units import Unit
from harness.quantize.weights import LayerParameters

#: Weights of a large matrix that are worked on at a time, in float64.
_PIECE = 1 << 22


def bias_corrections(
    graph: Graph,
    plan: Plan,
    means: Mapping[str, NDArray[np.float64]],
    parameters: Mapping[str, LayerParameters],
) -> dict[str, NDArray[np.float64]]:
    """What to add to each layer's bias, shape (output channels,).

    Layers without a place for a bias (a matrix product without a sum after it) are left out.

    Args:
        graph: the prepared network.
        plan: what is quantized.
        means: input of a layer → mean of each of its channels.
        parameters: layer → its rounded weights.
    """
    result: dict[str, NDArray[np.float64]] = {}
    for unit in plan.units:
        mean = means.get(unit.data[0].tensor)
        if unit.weight is None or mean is None or unit.name not in parameters or not takes_bias(graph, unit):
            continue
        weight, rounded = graph.array(unit.weight.tensor), parameters[unit.name].weight
        corrections = [
            _mean_output(graph, unit, weight[part].astype(np.float64) - rounded.part(part).dequantized(), mean)
            for part in _channels(unit, weight.shape)
        ]
        whole = [correction for correction in corrections if correction is not None]
        if whole and len(whole) == len(corrections):
            result[unit.name] = np.concatenate(whole)
    return result


def _channels(unit: Unit, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """A matrix in pieces of whole output channels; other weights as they are."""
    axis = unit.channel_axis
    if len(shape) != 2 or axis is None:
        return [(slice(None),) * len(shape)]
    step = max(1, _PIECE // max(1, shape[1 - axis]))
    columns = [slice(start, start + step) for start in range(0, shape[axis], step)]
    return [(part, slice(None)) if axis == 0 else (slice(None), part) for part in columns]


def takes_bias(graph: Graph, unit: Unit) -> bool:
    """Whether a layer has a bias, or a place for one."""
    if unit.bias is not None:
        return True
    return unit.op_type in {"Conv", "ConvTranspose"} and len(graph.node(unit.name).input) == 2


def _mean_output(
    graph: Graph, unit: Unit, error: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Mean of the layer's output when its weights are `error` and its input has these channel means."""
    node = graph.node(unit.name)
    if unit.op_type == "Conv":
        taps = error.sum(axis=tuple(range(2, error.ndim)))  # [Cout, Cin/group]
        groups = attribute(node, "group", 1)
        per_group = mean.reshape(groups, -1)
        if per_group.shape[1] != taps.shape[1]:
            return None
        summed: NDArray[np.float64] = np.einsum("goi,gi->go", taps.reshape(groups, -1, taps.shape[1]), per_group)
        return summed.reshape(-1)
    if unit.op_type == "Gemm":
        matrix = error if attribute(node, "transB", 0) else error.T
        return matrix @ mean if matrix.shape[1] == mean.size and not attribute(node, "transA", 0) else None
    if unit.op_type == "MatMul" and error.ndim == 2 and error.shape[0] == mean.size:
        return mean @ error
    return None  # a transposed convolution's taps do not meet every output alike
