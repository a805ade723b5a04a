"""One layer: int8 weights and a bias that give the wanted output from the input the layer really gets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harness.quantize.recovery.moments import FloatArray, Matrices, Moments
from harness.quantize.recovery.rounding import DAMPING, damp, output_error, rounded
from harness.quantize.rulebooks.rules import Bias, RuleBook
from harness.quantize.scales import round_to_integers
from harness.quantize.shifts import LayerShifts, position_of
from harness.quantize.weights import LayerParameters, QuantizedTensor, bias_position, quantize_bias, smallest_scales

#: How strongly weights are held to their float values while they make up for errors of the layers before, as a share
#: of the mean power of its inputs. Between 3 and 30 SqueezeNet, MobileNet v1 and ResNet-8 differ by 0.5 dB; with
#: 0.1 MobileNet v1 overfits, and without any fit it loses 2 dB under the fpga rules.
_RIDGE = 10.0
#: Steps tried for the weights of an output channel, as shares of the one that clips nothing.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
#: Powers of two tried for the weights of a layer, below the one that rounding to nearest takes.
_FINER = 3


class Aim(StrEnum):
    """What may change."""

    BIAS = "bias"  # weights stay rounded to nearest: sequential bias correction
    WEIGHTS = "weights"  # rounding with regard to each other, after a fit to the input that the layer gets


@dataclass(frozen=True)
class Layer:
    """A layer as `solve` sees it.

    Args:
        weights: its float weights.
        bias: its float bias, shape (outputs,); None without one.
        takes_bias: whether it has a bias or a place for one.
        nearest: its parameters before.
        rules: the environment's, with what is overridden for this layer.
        input_scale: of its int8 input, None where that is float.
        shifts: what the board's shifts leave to weights and bias; None: anything.
    """

    weights: Matrices
    bias: FloatArray | None
    takes_bias: bool
    nearest: LayerParameters
    rules: RuleBook
    input_scale: float | None
    shifts: LayerShifts | None = None


def solve(layer: Layer, seen: Moments, aim: Aim) -> LayerParameters:
    """Parameters with a smaller squared error of the layer's output than the ones before.

    Args:
        layer: the layer.
        seen: moments of its input in the int8 network and its output in the float one.
        aim: what may change.
    """
    if aim is Aim.BIAS:
        return _with_bias(layer, seen, layer.nearest.weight, _real(layer, layer.nearest.weight))
    int8_bias = layer.takes_bias and layer.rules.bias is Bias.INT8_POWER_OF_TWO
    hessian, wanted = _fitted(layer, seen)
    if int8_bias:
        hessian, wanted = _around_bias(layer, seen, wanted)
    integers, scale = _integers(layer, hessian, wanted)
    axis = layer.nearest.weight.axis
    stored = QuantizedTensor(
        layer.weights.restored(integers).astype(np.int8),
        scale.reshape(-1).astype(np.float32) if axis is not None else np.asarray(scale.flat[0], np.float32),
        axis,
    )
    return _with_bias(layer, seen, stored, integers * scale)


def _fitted(layer: Layer, seen: Moments) -> tuple[FloatArray, FloatArray]:
    """(second moments, real weights): ridge regression of the wanted output on the input, towards the float weights.

    A free bias takes care of the means, so they are taken out.
    """
    x, y = seen.x / seen.count, seen.y / seen.count
    second, cross = seen.xx / seen.count, seen.xy / seen.count
    if layer.takes_bias:
        second = second - x[:, :, None] * x[:, None, :]
        cross = cross - x[:, :, None] * y[:, None, :]
    real = layer.weights.values
    residual = cross - np.matmul(second, real.transpose(0, 2, 1))
    return second, real + np.linalg.solve(damp(second, _RIDGE), residual).transpose(0, 2, 1)


def _wanted_mean(layer: Layer, seen: Moments) -> FloatArray:
    """Mean of the wanted output per channel, shape (groups, outputs), as far as the passes agree on it.

    The float layer on the int8 network's input is off by what the layers before add. Of that shift only what stands out
    from its own standard error over the passes is made up for (the positive part of James and Stein's estimate, 1961):
    a layer behind a global pool sees a handful of positions.
    """
    real = layer.weights.values
    own = np.zeros(real.shape[:2]) if layer.bias is None else layer.bias.reshape(real.shape[:2])
    shifts = seen.pass_y - np.einsum("gok,pgk->pgo", real, seen.pass_x) - own
    expected = np.einsum("gok,gk->go", real, seen.x / seen.count) + own
    shift = seen.y / seen.count - expected
    if len(shifts) < 2:
        return np.asarray(expected)
    error = shifts.var(axis=0, ddof=1) / len(shifts)
    power = shift**2
    kept = np.maximum(1 - np.divide(error, power, out=np.ones_like(power), where=power > 0), 0)
    return np.asarray(expected + kept * shift)


def _around_bias(layer: Layer, seen: Moments, wanted: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same where the bias has few bits: it is rounded first, and the weights make up for it."""
    x = seen.x / seen.count
    best = _wanted_mean(layer, seen) - np.einsum("gok,gk->go", wanted, x)
    bias = quantize_bias(best.reshape(-1), layer.rules, None, layer.nearest.weight.scale, layer.shifts, changed=True)
    assert isinstance(bias, QuantizedTensor)
    missing = best - bias.dequantized().reshape(best.shape)
    second = seen.xx / seen.count
    shift = np.linalg.solve(damp(second, DAMPING), x[:, :, None] * missing[:, None, :])
    return second, wanted + shift.transpose(0, 2, 1)


def _integers(layer: Layer, hessian: FloatArray, wanted: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(integers, scale of shape (G, O, 1))."""
    kind = layer.rules.weight
    limits = (-128 if kind.power_of_two else -127, 127)
    if not kind.power_of_two:
        scale = _steps(layer, hessian, wanted, limits)
        return rounded(wanted, hessian, scale, limits, kind.rounding), scale
    tried = []
    for finer in range(_steps_finer(layer)):
        scale = np.full((*wanted.shape[:2], 1), float(layer.nearest.weight.scale) / 2**finer)
        integers = rounded(wanted, hessian, scale, limits, kind.rounding)
        tried.append((float(output_error(integers * scale, wanted, hessian).sum()), finer, integers, scale))
    _, _, integers, scale = min(tried, key=lambda item: item[:2])
    return integers, scale


def _steps_finer(layer: Layer) -> int:
    """How many powers of two to try: those that the board's shifts allow beside the bias, the nearest one at least."""
    if layer.shifts is None:
        return _FINER
    bias = layer.nearest.bias
    finest = layer.shifts.finest_weight(position_of(bias.scale) if isinstance(bias, QuantizedTensor) else None)
    if finest is None:
        return _FINER
    return max(1, min(_FINER, finest - position_of(layer.nearest.weight.scale) + 1))


def _steps(layer: Layer, hessian: FloatArray, wanted: FloatArray, limits: tuple[int, int]) -> FloatArray:
    """Per output channel, the step with the least squared error of the output when rounding to nearest."""
    groups, outputs, _ = wanted.shape
    nearest = np.broadcast_to(layer.nearest.weight.scale.astype(np.float64), groups * outputs)
    nearest = nearest.reshape(groups, outputs, 1)
    peak = np.abs(wanted).max(axis=2, keepdims=True) / limits[1]
    start = np.where(peak > 0, peak, nearest)
    floor = np.zeros_like(start)
    if layer.takes_bias and layer.rules.bias is Bias.INT32 and layer.input_scale is not None and layer.bias is not None:
        floor = smallest_scales(layer.bias, layer.input_scale).reshape(start.shape)
    if layer.nearest.weight.axis is None:
        start, floor = np.full_like(start, start.max()), np.full_like(floor, floor.max())
    best = np.maximum(start, floor).astype(np.float32).astype(np.float64)
    least = np.full(start.shape, np.inf)
    for share in _SHARES:
        candidate = np.maximum(start * share, floor).astype(np.float32).astype(np.float64)
        integers = np.clip(round_to_integers(wanted / candidate, layer.rules.weight.rounding), *limits)
        error = output_error(integers * candidate, wanted, hessian)[:, :, None]
        if layer.nearest.weight.axis is None:
            error = np.full_like(error, error.sum())
        best, least = np.where(error < least, candidate, best), np.minimum(error, least)
    return best


def _with_bias(layer: Layer, seen: Moments, weight: QuantizedTensor, real: FloatArray) -> LayerParameters:
    """The weights with the bias that makes the mean of each output channel the wanted one."""
    if not layer.takes_bias:
        return LayerParameters(weight, layer.nearest.bias)
    bias = (_wanted_mean(layer, seen) - np.einsum("gok,gk->go", real, seen.x / seen.count)).reshape(-1)
    shifts = layer.shifts
    if shifts is not None and not shifts.bias_fits(bias_position(bias, layer.rules), position_of(weight.scale)):
        # It would saturate beside these weights: a layer at the limit of the board's shifts keeps what it had.
        return layer.nearest
    return LayerParameters(
        weight, quantize_bias(bias, layer.rules, layer.input_scale, weight.scale, shifts, changed=True)
    )


def _real(layer: Layer, weight: QuantizedTensor) -> FloatArray:
    return layer.weights.matched(weight.dequantized())
