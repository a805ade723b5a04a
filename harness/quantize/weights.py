"""Weights and biases as integers, by an environment's rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.quantize.finite import require_finite
from harness.quantize.graph import Graph
from harness.quantize.histogram import MsbHistogram
from harness.quantize.rulebooks.rules import Bias, RuleBook, WeightType
from harness.quantize.scales import fix_position, minmax_exponent, msb_window, power_of_two, round_to_integers
from harness.quantize.shifts import LayerShifts, position_of
from harness.quantize.units import Unit

Integers = NDArray[np.int8] | NDArray[np.int32]

#: A bias is kept below 2^30 accumulator steps, so that bias and products together fit 32 bits.
_BIAS_STEPS = 2**30
#: Scale of weights that are all zero, where no bias asks for a finer one.
_UNIT = 1.0
_MIN_SCALE = 2.0**-100
#: Elements of a large tensor that are worked on at a time.
_PIECE = 1 << 22


@dataclass(frozen=True)
class QuantizedTensor:
    """Integers and how to read them: real = values · scale along `axis`.

    Args:
        values: int8 or int32.
        scale: float32, a scalar or one per index of `axis`.
        axis: None for per tensor.
    """

    values: Integers
    scale: NDArray[np.float32]
    axis: int | None

    def reshaped(self, shape: tuple[int, ...]) -> QuantizedTensor:
        """A vector in the shape its layer wants, [C] or [1, C]: channels stay last."""
        return QuantizedTensor(self.values.reshape(shape), self.scale, None if self.axis is None else len(shape) - 1)

    def dequantized(self) -> NDArray[np.float64]:
        """Real values, float64."""
        if self.axis is None:
            return self.values.astype(np.float64) * float(self.scale)
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.values.astype(np.float64) * self.scale.astype(np.float64).reshape(shape)

    def part(self, index: tuple[slice, ...]) -> QuantizedTensor:
        """A piece of it."""
        scale = self.scale if self.axis is None else self.scale[index[self.axis]]
        return QuantizedTensor(self.values[index], scale, self.axis)


@dataclass(frozen=True)
class LayerParameters:
    """What a layer with weights becomes.

    Args:
        weight: its int8 weights.
        bias: its bias as integers, or as float32 of shape (output channels,) where the environment keeps it so;
            None leaves the bias as it is, or absent.
    """

    weight: QuantizedTensor
    bias: QuantizedTensor | NDArray[np.float32] | None


def real_bias(graph: Graph, unit: Unit) -> NDArray[np.float64] | None:
    """A layer's float bias, shape (output channels,); None without one."""
    if unit.bias is None:
        return None
    return graph.array(unit.bias.tensor).astype(np.float64).reshape(-1)


def check_finite(graph: Graph, unit: Unit) -> None:
    """Refuse a layer whose constants are no numbers.

    Raises:
        UserError: weights or bias hold NaN or infinity.
    """
    for port in (unit.weight, unit.bias):
        if port is not None:
            require_finite(port.tensor, graph.array(port.tensor), unit.name)


def layer_parameters(
    graph: Graph,
    unit: Unit,
    rules: RuleBook,
    method: str,
    input_scale: float | None,
    correction: NDArray[np.float64] | None = None,
    *,
    shifts: LayerShifts | None = None,
    position: int | None = None,
) -> LayerParameters:
    """Weights rounded to nearest, and the bias beside them.

    Args:
        graph: the prepared network.
        unit: a layer with constant weights.
        rules: the environment's.
        method: of the network; weights of power-of-two environments follow it.
        input_scale: of the layer's int8 input; None where it is float.
        correction: added to the bias, shape (output channels,); a layer without a bias gets it as one.
        shifts: what a board's shifts leave to weights and bias; None: anything.
        position: best one of the weights, known before; with `shifts` only.

    Raises:
        UserError: weights or bias hold NaN or infinity.
    """
    assert unit.weight is not None
    check_finite(graph, unit)
    bias = real_bias(graph, unit)
    changed = correction is not None
    if correction is not None:
        bias = correction if bias is None else bias + correction
    smallest = None
    if bias is not None and rules.bias is Bias.INT32 and input_scale is not None:
        smallest = smallest_scales(bias, input_scale)
    if shifts is not None:
        position = shifts.weight(position, None if bias is None else bias_position(bias, rules))
    weight = quantize_weights(
        graph.array(unit.weight.tensor), unit.channel_axis, rules, method, smallest, position=position
    )
    return LayerParameters(weight, quantize_bias(bias, rules, input_scale, weight.scale, shifts, changed=changed))


def quantize_bias(
    bias: NDArray[np.float64] | None,
    rules: RuleBook,
    input_scale: float | None,
    weight_scale: NDArray[np.float32],
    shifts: LayerShifts | None = None,
    *,
    changed: bool,
) -> QuantizedTensor | NDArray[np.float32] | None:
    """A bias by an environment's rule; a float one only where it is `changed` from the network's own."""
    if bias is None:
        return None
    if rules.bias is Bias.INT32 and input_scale is not None:
        return quantize_bias_int32(bias, input_scale, weight_scale)
    if rules.bias is Bias.INT8_POWER_OF_TWO:
        position = bias_position(bias, rules)
        if shifts is not None:
            position = shifts.bias(position, position_of(weight_scale))
        return quantize_bias_int8(bias, rules, 0 if position is None else position)
    return bias.astype(np.float32) if changed else None


def quantize_weights(
    weight: NDArray[np.float32],
    axis: int | None,
    rules: RuleBook,
    method: str = "minmax",
    smallest: NDArray[np.float64] | None = None,
    *,
    position: int | None = None,
) -> QuantizedTensor:
    """Symmetric int8 weights.

    Args:
        weight: float32, finite.
        axis: output channels, None when there is no such axis.
        rules: the environment's.
        method: of the network; `histogram` uses the window of most-significant bits where scales are powers of two.
        smallest: per output channel, the smallest scale its int32 bias can live with.
        position: the scale is 2 to minus this, where scales are powers of two; None: chosen here.
    """
    kind = rules.weight
    if kind.power_of_two:
        if position is None:
            exponent = _weight_exponent(weight, kind, method, position_search=rules.position_search)
        else:
            exponent = -position
        if smallest is not None and smallest.size and smallest.max() > 2.0**exponent:
            exponent = int(np.ceil(np.log2(smallest.max())))
        scale = np.asarray(power_of_two(exponent), np.float32)
        axis = None
    elif kind.per_channel and axis is not None:
        others = tuple(index for index in range(weight.ndim) if index != axis)
        peak = _magnitude(weight, others).astype(np.float64)
        scale = _at_least(peak / 127, smallest)
    else:
        axis = None
        peak = _magnitude(weight, None).astype(np.float64)
        scale = _at_least(peak / 127, None if smallest is None or not smallest.size else np.asarray(smallest.max()))
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.broadcast_to(scale.astype(np.float64).reshape(shape if axis is not None else ()), weight.shape)
    lowest = -128 if kind.power_of_two else -127
    values = np.empty(weight.shape, np.int8)
    for part in pieces(weight.shape):
        scaled = weight[part].astype(np.float64) / steps[part]
        values[part] = np.clip(round_to_integers(scaled, kind.rounding), lowest, 127)
    return QuantizedTensor(values, scale, axis)


def weights_follow_method(rules: RuleBook) -> bool:
    """Whether the network's method chooses the scales of weights too."""
    return rules.weight.power_of_two and not rules.position_search


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Index expressions that cover an array, each of at most `_PIECE` elements: float64 copies of them stay small."""
    row = math.prod(shape[1:])
    if not shape or math.prod(shape) <= _PIECE:
        yield (slice(None),) * len(shape)
    elif row > _PIECE:
        for index in range(shape[0]):
            for rest in pieces(shape[1:]):
                yield (slice(index, index + 1), *rest)
    else:
        step = _PIECE // row
        for start in range(0, shape[0], step):
            yield (slice(start, start + step),)


def _magnitude(weight: NDArray[np.float32], axes: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Largest |w| along axes; without a copy of the weights."""
    magnitude: NDArray[np.float32] = np.maximum(weight.max(axis=axes, initial=0.0), -weight.min(axis=axes, initial=0.0))
    return magnitude


def _at_least(scale: NDArray[np.float64], smallest: NDArray[np.float64] | None) -> NDArray[np.float32]:
    floor = np.zeros_like(scale) if smallest is None else smallest
    raised = np.maximum(scale, floor)
    return np.where(raised > 0, np.maximum(raised, _MIN_SCALE), _UNIT).astype(np.float32)


def _weight_exponent(weight: NDArray[np.float32], kind: WeightType, method: str, *, position_search: bool) -> int:
    low, high = min(float(weight.min(initial=0)), 0.0), max(float(weight.max(initial=0)), 0.0)
    if low == high:
        return 0
    if position_search:
        return -_searched_position(weight, fix_position(low, high), kind)
    if method == "histogram":
        return msb_window(MsbHistogram.empty().counting(weight), unsigned=False)[1]
    return minmax_exponent(max(-low, high), 7)


def _searched_position(values: NDArray[np.float32], position: int, kind: WeightType) -> int:
    """The DPU's search on the values themselves: least squared error over position … position + 4."""
    candidates = range(position, position + 5)
    costs = dict.fromkeys(candidates, 0.0)
    for part in pieces(values.shape):
        exact = values[part].astype(np.float64)
        for candidate in candidates:
            step = 2.0**-candidate
            rounded = np.clip(round_to_integers(exact / step, kind.rounding), -128, 127) * step
            costs[candidate] += float(np.sum((rounded - exact) ** 2))
    return min(candidates, key=lambda candidate: costs[candidate])


def smallest_scales(bias: NDArray[np.float64], input_scale: float) -> NDArray[np.float64]:
    """Per output channel, the smallest weight scale at which an int32 bias does not overflow."""
    return np.abs(bias) / (input_scale * _BIAS_STEPS)


def quantize_bias_int32(
    bias: NDArray[np.float64], input_scale: float, weight_scale: NDArray[np.float32]
) -> QuantizedTensor:
    """Bias in the accumulator's own steps: scale = input scale x weight scale."""
    scale = (np.float32(input_scale) * weight_scale).astype(np.float32)
    values = np.rint(bias / scale.astype(np.float64))
    limits = np.iinfo(np.int32)
    integers = np.clip(values, limits.min, limits.max).astype(np.int32)
    return QuantizedTensor(integers, scale, 0 if scale.ndim else None)


def weight_position(weight: NDArray[np.float32], rules: RuleBook, method: str) -> int | None:
    """Best position of int8 weights; None: any (they are all zero)."""
    if not weight.any():
        return None
    exponent = _weight_exponent(weight, rules.weight, method, position_search=rules.position_search)
    return position_of(power_of_two(exponent))


def bias_position(bias: NDArray[np.float64], rules: RuleBook) -> int | None:
    """Best position of an int8 bias; None: any (it is all zero)."""
    return weight_position(bias.astype(np.float32), rules, "minmax")


def quantize_bias_int8(bias: NDArray[np.float64], rules: RuleBook, position: int) -> QuantizedTensor:
    """Bias as int8 at a fix position of its own."""
    scale = power_of_two(-position)
    scaled = round_to_integers(bias / scale, rules.weight.rounding)
    return QuantizedTensor(np.clip(scaled, -128, 127).astype(np.int8), np.asarray(scale, np.float32), None)
