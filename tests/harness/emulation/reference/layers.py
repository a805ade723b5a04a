"""Operators of docs/emulation.md on exact numbers, for arithmetics with one rounding per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import NodeProto

from tests.harness.emulation.reference import dpu_units, rational, sums
from tests.harness.emulation.reference.geometry import attributes, linear_weights, window_of
from tests.harness.emulation.reference.rational import Exact, Whole
from tests.harness.emulation.reference.software import Software

MOVERS = frozenset(
    {
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


def layer(
    node: NodeProto, inputs: list[Any], software: Software, behind: float | None, *, dpu: bool
) -> list[Any] | None:
    """Exact results of a node; None where the page does not cover it.

    Args:
        node: the operator.
        inputs: its operands; exact numbers where they come from integers.
        software: moves integers.
        behind: step of the integers that the result becomes, where it does so at once.
        dpu: average pooling as the DPU has it.
    """
    if not inputs or not isinstance(inputs[0], Exact):
        return None
    if node.op_type in MOVERS:
        return _moved(node, inputs, software)
    if node.op_type == "Pad":
        return _pad(node, inputs, software, behind)
    if node.op_type == "Resize":
        return _resize(node, inputs, software)
    if node.op_type in {"AveragePool", "GlobalAveragePool", "ReduceMean"}:
        return _average(node, inputs, dpu=dpu)
    operands = [value for value in inputs if value is not None]
    found = _OPERATORS.get(node.op_type)
    if found is None or not all(isinstance(value, Exact) for value in operands):
        return None
    return [found(node, operands)]


def _moved(node: NodeProto, inputs: list[Any], software: Software) -> list[Any] | None:
    value: Exact = inputs[0]
    if not value.whole or rational.largest(value.numerators) > 2**24:
        return None
    # Whole numbers below 2^24 pass through float32 unchanged.
    moved = software.run(node, [value.numerators.astype(np.float32), *inputs[1:]])
    return [replace(value, numerators=part.astype(np.int64)) if part.dtype == np.float32 else part for part in moved]


def _pad(node: NodeProto, inputs: list[Any], software: Software, behind: float | None) -> list[Any] | None:
    value: Exact = inputs[0]
    if value.levels is None:
        return None
    others = list(inputs[1:])
    if len(others) > 1 and others[1] is not None:
        if behind is None:
            return None
        constant = others[1]
        exact = constant if isinstance(constant, Exact) else rational.of_floats(np.asarray(constant))
        # It enters as integers at the step of what is made; both kinds of integers then count in the finer step.
        entered = rational.rounded(exact, behind, "half-away", value.levels).astype(np.int64)
        padding = rational.scaled(entered, np.asarray(behind))
        finest = min(value.exponent, padding.exponent)
        others[1] = rational.times(padding.numerators, 1 << (padding.exponent - finest)).astype(np.float32).reshape(())
        counted = rational.times(value.numerators, 1 << (value.exponent - finest))
        value = replace(value, numerators=counted, exponent=finest, levels=None)
    return _moved(node, [value, *others], software)


def _conv(node: NodeProto, operands: list[Exact]) -> Exact:
    value, weight, *bias = operands
    groups = attributes(node).get("group", 1)
    window = window_of(node, value.numerators.shape[2:], weight.numerators.shape[2:])
    total = sums.convolve(value.numerators, weight.numerators, window, groups)
    return _biased(Exact(total, value.exponent + weight.exponent), bias, value.numerators.ndim - 2)


def _conv_transpose(node: NodeProto, operands: list[Exact]) -> Exact:
    value, weight, *bias = operands
    given = attributes(node)
    spatial = value.numerators.shape[2:]
    window = window_of(node, spatial, weight.numerators.shape[2:], transposed=True)
    extra = given.get("output_padding", [0] * len(spatial))
    total = sums.convolve_transposed(value.numerators, weight.numerators, window, given.get("group", 1), extra)
    return _biased(Exact(total, value.exponent + weight.exponent), bias, len(spatial))


def _biased(total: Exact, bias: Sequence[Exact], spatial: int) -> Exact:
    if not bias:
        return total
    shape = [-1] + [1] * spatial
    return rational.add(total, replace(bias[0], numerators=bias[0].numerators.reshape(shape)))


def _gemm(node: NodeProto, operands: list[Exact]) -> Exact:
    given = attributes(node)
    left, right, *bias = operands
    one = left.numerators.T if given.get("transA", 0) else left.numerators
    other = right.numerators.T if given.get("transB", 0) else right.numerators
    total = Exact(sums.matmul(one, other), left.exponent + right.exponent)
    total = rational.multiply(total, rational.of_floats(np.asarray(np.float32(given.get("alpha", 1.0)))))
    if not bias:
        return total
    share = rational.of_floats(np.asarray(np.float32(given.get("beta", 1.0))))
    return rational.add(total, rational.multiply(bias[0], share))


def _matmul(_: NodeProto, operands: list[Exact]) -> Exact:
    left, right = operands
    return Exact(sums.matmul(left.numerators, right.numerators), left.exponent + right.exponent)


def _concat(node: NodeProto, operands: list[Exact]) -> Exact:
    exponent = min(value.exponent for value in operands)
    parts = [rational.times(value.numerators, 1 << (value.exponent - exponent)) for value in operands]
    if not all(value.whole for value in operands):
        raise NotImplementedError("a concatenation of averages that nothing rounded")
    return Exact(np.concatenate(parts, axis=attributes(node)["axis"]), exponent)


def _add(_: NodeProto, operands: list[Exact]) -> Exact:
    return rational.add(*operands)


def _sub(_: NodeProto, operands: list[Exact]) -> Exact:
    return rational.add(operands[0], rational.negative(operands[1]))


def _mul(_: NodeProto, operands: list[Exact]) -> Exact:
    return rational.multiply(*operands)


_OPERATORS: dict[str, Callable[[NodeProto, list[Exact]], Exact]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Concat": _concat,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
}


def _average(node: NodeProto, inputs: list[Any], *, dpu: bool) -> list[Any] | None:
    value: Exact = inputs[0]
    if value.levels is None:
        return None
    given = attributes(node)
    if node.op_type == "AveragePool":
        window = window_of(node, value.numerators.shape[2:], given["kernel_shape"])
        total, counts, reaches = sums.pooled(
            value.numerators,
            window,
            ceil=bool(given.get("ceil_mode", 0)),
            include_pad=bool(given.get("count_include_pad", 0)),
        )
        if dpu and reaches:
            return None
        return [_mean(Exact(total, value.exponent), counts, window.kernel, dpu=dpu)]
    rank = value.numerators.ndim
    axes: tuple[int, ...] = tuple(range(2, rank))
    keep = True
    if node.op_type == "ReduceMean":
        named = given.get("axes") if len(inputs) < 2 or inputs[1] is None else inputs[1].tolist()
        axes = tuple(sorted(axis % rank for axis in named)) if named else tuple(range(rank))
        keep = bool(given.get("keepdims", 1))
        if rank != 4 or axes != (2, 3):
            return None
    sizes = tuple(value.numerators.shape[axis] for axis in axes)
    total = value.numerators.sum(axis=axes, keepdims=keep)
    return [_mean(Exact(total, value.exponent), np.asarray(int(np.prod(sizes))), sizes, dpu=dpu)]


def _mean(total: Exact, counts: Whole, window: Sequence[int], *, dpu: bool) -> Exact:
    if not dpu:
        return rational.divide(total, counts)
    factor = dpu_units.pooling_factor(window)
    return rational.multiply(total, Exact(np.asarray(factor.numerator), -(factor.denominator.bit_length() - 1)))


def _resize(node: NodeProto, inputs: list[Any], software: Software) -> list[Any] | None:
    given = attributes(node)
    mode = given.get("mode", "nearest")
    if mode == "nearest":
        return _moved(node, inputs, software)
    value: Exact = inputs[0]
    if (
        mode != "linear"
        or given.get("antialias", 0)
        or given.get("axes")
        or given.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        return None
    shape = value.numerators.shape
    scales = inputs[2] if len(inputs) > 2 else None
    if scales is not None and scales.size:
        ratios = [Fraction(float(scale)) for scale in scales.tolist()]
        out = [int(size * ratio) for size, ratio in zip(shape, ratios, strict=True)]
    else:
        out = [int(size) for size in inputs[3]]
        ratios = [Fraction(new, size) for new, size in zip(out, shape, strict=True)]
    result = value
    for axis, (size, new, ratio) in enumerate(zip(shape, out, ratios, strict=True)):
        if size == new and ratio == 1:
            continue
        rows = linear_weights(size, new, ratio, given.get("coordinate_transformation_mode", "half_pixel"))
        if rows is None:
            return None
        finest = max(entry.denominator for entry in rows.ravel())
        whole = np.array([[int(entry * finest) for entry in row] for row in rows], np.int64)
        moved = np.moveaxis(result.numerators, axis, -1)
        summed = sums.matmul(moved, whole.T)
        result = Exact(np.moveaxis(summed, -1, axis), result.exponent - (finest.bit_length() - 1))
    return [result]
