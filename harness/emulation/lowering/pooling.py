"""Averages: an exact sum, then a division that rounds once (or the DPU's factor)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from harness.emulation.exact import Value, carrier_for
from harness.emulation.integer_network import Layer
from harness.emulation.lowering import dpu
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent, only_tensor
from harness.emulation.lowering.functions import CLIPS, integer_bounds, leave
from harness.emulation.lowering.windows import windows_of
from harness.quantize.graph import attribute
from harness.quantize.rulebooks.rules import Rounding

AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})


def lower_average(context: Context, layer: Layer) -> Outcome:
    """AveragePool, GlobalAveragePool or ReduceMean.

    Raises:
        NotExact: double precision does not hold it.
        Uncovered: sizes that are known only when it runs, windows that the DPU does not have.
    """
    if layer.node.op_type == "AveragePool":
        total, counts, window = _window_sums(context, layer)
    else:
        total, counts, window = _reduced(context, layer)
    shift = exponent(only_tensor(layer)) - exponent(layer.result)
    e = context.expressions
    if context.arithmetic.dpu_units:
        return leave(context, layer, e.times(total, dpu.average_factor(window) * Fraction(2) ** shift))
    several = np.unique(counts)
    if several.size == 1 and int(several[0]) & (int(several[0]) - 1) == 0:
        return leave(context, layer, e.times(total, Fraction(2) ** shift / int(several[0])))
    return _divided(context, layer, total, counts, shift)


def _sized(context: Context, layer: Layer, axes: Sequence[int]) -> tuple[int, ...]:
    shape = context.shape(layer.node.input[0])
    sizes = [shape[axis] for axis in axes]
    known = tuple(size for size in sizes if size is not None)
    if len(known) != len(sizes) or 0 in known:
        raise Uncovered("the size of its windows is not known before it runs")
    return known


def _window_sums(context: Context, layer: Layer) -> tuple[Value, NDArray[np.int64], tuple[int, ...]]:
    node, tensor = layer.node, only_tensor(layer)
    rank = len(context.shape(node.input[0]))
    spatial = _sized(context, layer, range(2, rank))
    (channels,) = _sized(context, layer, [1])
    windows = windows_of(node, spatial)
    counts = windows.counts(spatial, padding=bool(attribute(node, "count_include_pad", 0)))
    size = int(np.prod(windows.kernel))
    if counts.size == 0 or counts.min() < 1:
        raise Uncovered("one of its windows is empty")
    if context.arithmetic.dpu_units and np.any(counts != size):
        raise Uncovered("a window reaches into padding that does not count: the DPU has one factor for all windows")
    value = context.value(tensor)
    e = context.expressions
    ends = [end + overhang for end, overhang in zip(windows.end, windows.overhang, strict=True)]
    ones = e.array(np.ones((channels, 1, *windows.kernel), np.float32), "ones")
    name = e.node(
        "Conv",
        [tensor.name, ones],
        group=channels,
        kernel_shape=list(windows.kernel),
        strides=list(windows.strides),
        dilations=list(windows.dilations),
        pads=[*windows.begin, *ends],
    )
    total = _sum(value, name, size)
    return total, counts if np.any(counts != counts.flat[0]) else counts.reshape(-1)[:1], windows.kernel


def _sum(value: Value, name: str, count: int) -> Value:
    low, high = min(value.low * count, Fraction(0)), max(value.high * count, Fraction(0))
    if carrier_for(low, high, 0) != "float32":
        raise Uncovered(f"the sum of {count} integers needs more than single precision's 24 bits")
    return replace(value, name=name, low=low, high=high)


def _reduced(context: Context, layer: Layer) -> tuple[Value, NDArray[np.int64], tuple[int, ...]]:
    node, tensor = layer.node, only_tensor(layer)
    rank = len(context.shape(node.input[0]))
    keep = 1
    axes = list(range(2, rank))
    if node.op_type == "ReduceMean":
        keep = int(attribute(node, "keepdims", 1))
        axes = sorted(axis % rank for axis in _axes(context, layer, rank))
    window = _sized(context, layer, axes)
    if context.arithmetic.dpu_units and rank == 4 and axes not in ([2, 3], [1, 2]):
        raise Uncovered("the DPU averages over height and width only")
    count = int(np.prod(window))
    e = context.expressions
    name = e.node("ReduceSum", [tensor.name, e.array(np.asarray(axes, np.int64), "axes")], keepdims=keep)
    return _sum(context.value(tensor), name, count), np.array([count]), window


def _axes(context: Context, layer: Layer, rank: int) -> Sequence[int]:
    node = layer.node
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        if not context.graph.is_constant(node.input[1]):
            raise Uncovered("its axes are computed at run time")
        given = [int(axis) for axis in context.graph.array(node.input[1]).reshape(-1)]
    if not given:
        if attribute(node, "noop_with_empty_axes", 0):
            raise Uncovered("it averages over nothing")
        return range(rank)
    return [int(axis) for axis in given]


def _divided(context: Context, layer: Layer, total: Value, counts: NDArray[np.int64], shift: int) -> Outcome:
    """R(total·2^shift / n) as the floor of a quotient of whole numbers.

    A quotient a/b of whole numbers that is not whole lies at least 1/b below the next one; its rounding error is at
    most a/b·2^-24 (2^-53), so that the floor is right while the carrier holds a.
    """
    if any(node.op_type not in CLIPS for node in layer.functions):
        raise Uncovered(f"a {layer.functions[0].op_type} stands behind an average")
    e = context.expressions
    low, high = integer_bounds(context, layer, Fraction(2) ** exponent(layer.result))
    up = context.arithmetic.layers is Rounding.HALF_UP
    signed = total.low < 0 and low < 0 and not up
    sign = e.node("Sign", [total.name]) if signed else None
    if signed:
        largest = max(abs(total.low), abs(total.high))
        total = replace(total, name=e.node("Abs", [total.name]), low=Fraction(0), high=largest)
    elif not up:
        total = e.positive(total)
    numerators = counts.astype(np.float64) * 2.0 ** max(-1 - shift, 0)
    above = e.add(e.times(total, 2 ** max(shift + 1, 0)), e.given(numerators, "count"))
    below = e.as_carrier(e.given(2 * numerators, "count"), above.carrier)
    name = e.node("Floor", [e.node("Div", [above.name, below.name])])
    if sign is not None:
        if above.carrier == "float64":
            sign = e.as_carrier(Value(sign, "float32", Fraction(-1), Fraction(1), 0), "float64").name
        name = e.node("Mul", [name, sign])
    bounds = [e.number(Fraction(bound), above.carrier) for bound in (low, high)]
    clipped = Value(e.node("Clip", [name, *bounds]), above.carrier, Fraction(low), Fraction(high), 0)
    e.identity(clipped, layer.result.name)
    return Outcome(low, high, above.carrier)
