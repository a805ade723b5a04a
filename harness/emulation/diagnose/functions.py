"""Real values of the layers that have no weights, and of fused functions, in float64 (docs/emulation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto

from harness.emulation.diagnose.layer import Float64, Int64, Layer
from harness.emulation.diagnose.windows import Geometry
from harness.quantize.graph import attribute

#: The DPU's factors of a window's sum (docs/emulation.md, 'The DPU's average pooling').
_DPU_FACTORS: Mapping[tuple[int, int], tuple[int, int]] = {
    (3, 3): (7, 64), (5, 5): (10, 256), (6, 6): (7, 256), (3, 6): (14, 256), (6, 3): (14, 256), (7, 7): (21, 1024),
    (14, 14): (21, 4096),
}  # fmt: skip
_HARD = 2731 / 16384


def activate(node: NodeProto, parameters: Sequence[Float64], r: Float64, *, dpu: bool) -> Float64 | None:
    """A function of one tensor on exact values; None for one that is not covered.

    Args:
        node: the function.
        parameters: its stored inputs behind the first, NaN where left out.
        r: values.
        dpu: with the DPU's own constants.
    """
    kind = node.op_type
    if kind == "Relu":
        return np.maximum(r, 0)
    if kind == "Clip":
        low = _bound(parameters, 0, attribute(node, "min", -math.inf))
        high = _bound(parameters, 1, attribute(node, "max", math.inf))
        return np.minimum(np.maximum(r, low), high)
    if kind == "LeakyRelu":
        slope = 26 / 256 if dpu else float(np.float32(attribute(node, "alpha", 0.01)))
        return np.where(r >= 0, r, r * slope)
    if kind == "PRelu" and parameters and parameters[0].size == 1:
        return np.where(r >= 0, r, r * float(parameters[0].reshape(())))
    if kind == "HardSigmoid":
        if dpu:
            return np.minimum(np.maximum(r + 3, 0), 6) * _HARD
        alpha, beta = np.float32(attribute(node, "alpha", 0.2)), np.float32(attribute(node, "beta", 0.5))
        return np.minimum(np.maximum(float(alpha) * r + float(beta), 0), 1)
    if kind == "HardSwish":
        if dpu:
            h = np.floor(np.minimum(np.maximum(r + 3, 0), 6) * _HARD * 128 + 0.5)
            return r * np.minimum(h, 127) / 128
        return r * np.minimum(np.maximum(r * float(np.float32(1 / 6)) + 0.5, 0), 1)
    if kind == "Sigmoid":
        return 1 / (1 + np.exp(-r))
    if kind == "Tanh":
        return np.tanh(r)
    return None


def _bound(parameters: Sequence[Float64], slot: int, default: float) -> float:
    if slot < len(parameters) and not np.isnan(parameters[slot]).any():
        return float(parameters[slot].reshape(()))
    return float(default)


def real_values(
    layer: Layer, given: Mapping[str, Int64], parameters: Sequence[Float64], *, dpu: bool
) -> Float64 | None:
    """What a layer without weights computes, before fused functions; None where it is not covered.

    Args:
        layer: as in the file.
        given: integers of its inputs, by tensor.
        parameters: of an activation function that stands alone.
        dpu: with the DPU's own constants.
    """
    assert layer.node is not None
    node = layer.node
    real: list[Float64] = []
    for one in layer.operands:
        integers = one.values if one.tensor is None else given[one.tensor]
        if integers is None:
            return None
        real.append((integers - one.step.zero_point) * one.step.scale)
    kind = node.op_type
    if len(real) == 2 and kind in {"Add", "Sub", "Mul", "MatMul"}:
        first, second = real
        if kind == "MatMul":
            return first @ second
        return first + second if kind == "Add" else first - second if kind == "Sub" else first * second
    if kind == "Concat":
        return np.concatenate(real, axis=int(attribute(node, "axis", 0)))
    if len(real) != 1:
        return None
    if kind == "GlobalAveragePool":
        size = real[0].shape[2:]
        total = real[0].sum(axis=tuple(range(2, real[0].ndim)), keepdims=True)
        return _mean(total, size, dpu=dpu)
    if kind == "AveragePool":
        return _average(node, real[0], dpu=dpu)
    return activate(node, parameters, real[0], dpu=dpu)


def _average(node: NodeProto, real: Float64, *, dpu: bool) -> Float64 | None:
    kernel = tuple(attribute(node, "kernel_shape", ()))
    geometry = Geometry.of(node, kernel)
    if geometry is None:
        return None
    counted = any(geometry.pads) and not attribute(node, "count_include_pad", 0)
    if counted and dpu:
        return None
    axes = tuple(range(len(kernel) + 1, 2 * len(kernel) + 1))
    sums = np.stack([np.moveaxis(geometry.windows(one, 0).sum(axis=axes), -1, 0) for one in real])
    if not counted:
        return _mean(sums, kernel, dpu=dpu)
    inside = geometry.windows(np.ones((1, *real.shape[2:])), 0).sum(axis=axes)
    return np.asarray(sums / np.moveaxis(inside, -1, 0)[None])


def _mean(total: Float64, window: Sequence[int], *, dpu: bool) -> Float64:
    count = math.prod(window)
    if not dpu:
        return np.asarray(total / count)
    known = _DPU_FACTORS.get((window[0], window[1])) if len(window) == 2 else None
    if known is None:
        candidates = [(round(2**t / count), t) for t in range(math.ceil(math.log2(128 * count)))]
        known = min(((f, 2**t) for f, t in candidates), key=lambda one: (abs(one[0] / one[1] - 1 / count), one[1]))
    return np.asarray(total * (known[0] / known[1]))
