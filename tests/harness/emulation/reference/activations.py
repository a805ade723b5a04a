"""Activation functions of docs/emulation.md on exact numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from tests.harness.emulation.reference import rational
from tests.harness.emulation.reference.geometry import attributes
from tests.harness.emulation.reference.rational import Exact

ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"})

_DPU_SLOPE = 26 / 256
_FACTOR_TOLERANCE = 1e-4  # exporters write six digits of 1/6


@dataclass(frozen=True, eq=False)
class Curve:
    """Values of a function in double precision, before they are rounded."""

    numbers: NDArray[np.float64]


def activated(node: NodeProto, inputs: list[Any], *, dpu: bool) -> list[Any] | None:
    """The function's exact values (a `Curve` for those in double precision); None where the page does not cover it."""
    value, *others = inputs
    if not isinstance(value, Exact):
        return None
    given = attributes(node)
    if node.op_type == "Relu":
        return [rational.clamp(value, 0.0, np.inf)]
    if node.op_type == "Clip":
        bounds = [given.get("min", -np.inf), given.get("max", np.inf)]
        for at, bound in enumerate(others):
            if bound is not None:
                bounds[at] = float(bound.float32() if isinstance(bound, Exact) else bound)
        return [rational.clamp(value, float(bounds[0]), float(bounds[1]))]
    if node.op_type == "LeakyRelu":
        slope = _DPU_SLOPE if dpu else np.float32(given.get("alpha", 0.01))
        return [_sloped(value, rational.of_floats(np.asarray(slope)))]
    if node.op_type == "PRelu":
        slopes = others[0] if isinstance(others[0], Exact) else rational.of_floats(others[0])
        if dpu:
            if (np.abs(slopes.float32().astype(np.float64) - _DPU_SLOPE) > 1 / 512).any():
                return None
            slopes = rational.of_floats(np.asarray(_DPU_SLOPE))
        return [_sloped(value, slopes)]
    if node.op_type == "HardSigmoid":
        return _hard_sigmoid(value, np.float32(given.get("alpha", 0.2)), np.float32(given.get("beta", 0.5)), dpu=dpu)
    if node.op_type == "HardSwish" and not dpu:
        return [_hard_swish(value, dpu=False)]
    if value.levels is None:
        return None
    if node.op_type == "HardSwish":
        return [_hard_swish(value, dpu=True)]
    real = np.ldexp(np.asarray(value.numerators, np.float64), value.exponent)
    levels, where = np.unique(real, return_inverse=True)
    numbers = np.array([_curve(node.op_type, level) for level in levels.tolist()])
    return [Curve(numbers[where].reshape(real.shape))]


def _curve(function: str, level: float) -> float:
    """The double nearest to the function's value, by way of 60 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        if function == "Sigmoid":
            return float(1 / (1 + Decimal(-level).exp()))
        rising = Decimal(-2 * abs(level)).exp()
        return math.copysign(float((1 - rising) / (1 + rising)), level)


def _sloped(value: Exact, slope: Exact) -> Exact:
    return rational.where_negative(value, rational.multiply(value, slope))


def _affine(value: Exact, factor: np.float32, summand: np.float32) -> Exact:
    product = rational.multiply(value, rational.of_floats(np.asarray(factor)))
    return rational.add(product, rational.of_floats(np.asarray(summand)))


def _dpu_hard_sigmoid(value: Exact) -> Exact:
    shifted = rational.clamp(rational.add(value, rational.of_floats(np.asarray(3.0))), 0.0, 6.0)
    return rational.multiply(shifted, Exact(np.asarray(2731), -14))


def _hard_sigmoid(value: Exact, alpha: np.float32, beta: np.float32, *, dpu: bool) -> list[Any] | None:
    if not dpu:
        return [rational.clamp(_affine(value, alpha, beta), 0.0, 1.0)]
    if abs(alpha - 1 / 6) > _FACTOR_TOLERANCE or abs(beta - 1 / 2) > _FACTOR_TOLERANCE:
        return None
    return [_dpu_hard_sigmoid(value)]


def _hard_swish(value: Exact, *, dpu: bool) -> Exact:
    if dpu:
        gate = rational.rounded(_dpu_hard_sigmoid(value), 2**-7, "half-up", np.dtype(np.int8))
        return rational.multiply(value, Exact(gate.astype(np.int64), -7))
    return rational.multiply(value, rational.clamp(_affine(value, np.float32(1 / 6), np.float32(0.5)), 0.0, 1.0))
