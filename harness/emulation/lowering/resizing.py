"""Linear resizing as exact products with matrices of weights; nearest resizing moves values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from harness.emulation.exact import NotExact, Value, finest
from harness.emulation.integer_network import Layer
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent, only_tensor
from harness.emulation.lowering.functions import leave
from harness.emulation.lowering.movers import lower_mover
from harness.quantize.graph import attribute
from harness.quantize.static_values import static_value


def lower_resize(context: Context, layer: Layer) -> Outcome:
    """Resize; linear where its weights are whole multiples of a power of two.

    Raises:
        NotExact: double precision does not hold the sums.
        Uncovered: another mode, sizes known only when it runs, other weights.
    """
    node = layer.node
    mode = attribute(node, "mode", "nearest")
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        raise Uncovered("it interpolates from a region of interest")
    if mode == "nearest":
        return lower_mover(context, layer)
    if mode != "linear":
        raise Uncovered(f"{mode} interpolation is not covered")
    if attribute(node, "antialias", 0) or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Uncovered("it interpolates with antialiasing or a kept aspect ratio")
    tensor = only_tensor(layer)
    value = context.value(tensor)
    e = context.expressions
    shape = context.shape(node.input[0])
    for axis, (size, scale) in _targets(context, layer, len(shape)).items():
        here = shape[axis]
        if scale == 1 or (here is None and size is None and scale is None):
            continue
        if here is None:
            raise Uncovered("the size of its input is not known before it runs")
        out = size if size is not None else math.floor(here * scale) if scale is not None else here
        factor = scale if scale is not None else Fraction(out, here)
        if out == here and factor == 1:
            continue
        matrix = _matrix(here, out, factor, coordinates)
        if axis == len(shape) - 1:
            value = _multiplied(context, value, matrix.T, left=False)
        elif axis == len(shape) - 2:
            value = _multiplied(context, value, matrix, left=True)
        else:
            raise Uncovered("it interpolates along other axes than the last two")
    shift = exponent(tensor) - exponent(layer.result)
    return leave(context, layer, e.times(value, Fraction(2) ** shift))


def _targets(context: Context, layer: Layer, rank: int) -> dict[int, tuple[int | None, Fraction | None]]:
    """Axis → (size, None) or (None, scale)."""
    node = layer.node
    axes = [axis % rank for axis in attribute(node, "axes", range(rank))]
    names = [*node.input[1:], "", "", ""]
    for slot, as_size in ((2, True), (1, False)):
        name = names[slot]
        if not name:
            continue
        given = _given(context, name)
        if given.size != len(axes):
            continue
        if any(number is None for axis, number in zip(axes, given, strict=True) if axis):
            raise Uncovered("its size is computed at run time")
        # Nobody interpolates between samples: an unknown number of them stays what it is.
        if as_size:
            return {
                axis: (None if number is None else int(number), None) for axis, number in zip(axes, given, strict=True)
            }
        return {
            axis: (None, None if number is None else Fraction(float(number)))
            for axis, number in zip(axes, given, strict=True)
        }
    raise Uncovered("it has neither scales nor sizes")


def _given(context: Context, name: str) -> NDArray[np.object_]:
    """Sizes or scales, None where they follow from what the network is fed."""
    if context.graph.is_constant(name):
        return context.graph.array(name).reshape(-1).astype(object)
    found = static_value(context.graph, name)
    if found is None:
        raise Uncovered("its size is computed at run time")
    return found.reshape(-1)


def _matrix(here: int, out: int, scale: Fraction, coordinates: str) -> NDArray[np.float64]:
    """Interpolation weights, shape (out, here)."""
    matrix = np.zeros((out, here))
    for row in range(out):
        place = min(max(_place(row, here, out, scale, coordinates), Fraction(0)), Fraction(here - 1))
        first = math.floor(place)
        rest = place - first
        for column, weight in ((first, 1 - rest), (min(first + 1, here - 1), rest)):
            if weight.denominator & (weight.denominator - 1) or weight.denominator > 2**20:
                raise Uncovered("its interpolation weights are no multiples of a power of two")
            matrix[row, column] += float(weight)
    return matrix


def _place(row: int, here: int, out: int, scale: Fraction, coordinates: str) -> Fraction:
    """Where an output lies among the inputs (ONNX, operator Resize, coordinate_transformation_mode)."""
    half = Fraction(1, 2)
    if coordinates == "asymmetric":
        return row / scale
    if coordinates == "align_corners":
        return Fraction(0) if out == 1 else Fraction(row * (here - 1), out - 1)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return Fraction(0)
    if coordinates == "half_pixel_symmetric":
        adjustment = Fraction(out) / (scale * here)
        center = Fraction(here, 2)
        return center * (1 - adjustment) + (row + half) / scale - half
    if coordinates in {"half_pixel", "pytorch_half_pixel"}:
        return (row + half) / scale - half
    raise Uncovered(f"coordinates {coordinates!r} are not covered")


def _multiplied(context: Context, value: Value, matrix: NDArray[np.float64], *, left: bool) -> Value:
    e = context.expressions
    factor = e.given(matrix, "weights")
    bits = value.bits + finest([Fraction(float(number)) for number in np.unique(matrix)])
    # weights of one output add up to 1: the result stays between its inputs
    result = Value("", "float32", min(value.low, Fraction(0)), max(value.high, Fraction(0)), bits)
    if max(abs(result.low), abs(result.high)) * Fraction(2) ** bits > 2**24:
        raise NotExact("its interpolation needs more bits than single precision has")
    names = [factor.name, value.name] if left else [value.name, factor.name]
    return Value(e.node("MatMul", names), "float32", result.low, result.high, bits)
