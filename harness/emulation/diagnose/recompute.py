"""One layer once more from given integers, as the arithmetic says it or with one thing done otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from harness.emulation.arithmetic import Arithmetic
from harness.emulation.diagnose.functions import activate, real_values
from harness.emulation.diagnose.layer import Float64, Int64, Layer
from harness.emulation.diagnose.sums import Product, product_of, spread_over


class Round(StrEnum):
    """Ways to make a whole number."""

    HALF_EVEN = "half-even"
    HALF_UP = "half-up"
    HALF_AWAY = "half-away"
    HALF_DOWN = "half-down"
    TOWARD_ZERO = "toward-zero"
    FLOOR = "floor"
    CEILING = "ceiling"


def round_by(rule: Round, v: Float64) -> Float64:
    """Whole numbers, as float64.

    Args:
        rule: how.
        v: values far below 2^52, where adding a half is exact.
    """
    if rule is Round.HALF_EVEN:
        return np.rint(v)
    if rule is Round.HALF_UP:
        return np.floor(v + 0.5)
    if rule is Round.HALF_DOWN:
        return np.ceil(v - 0.5)
    if rule is Round.HALF_AWAY:
        return np.copysign(np.floor(np.abs(v) + 0.5), v)
    if rule is Round.TOWARD_ZERO:
        return np.trunc(v)
    return np.floor(v) if rule is Round.FLOOR else np.ceil(v)


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What a layer's result is made of, one element a value; parts of it can be taken.

    Args:
        acc: Σ w·x of a weighted layer.
        step: real value of one unit of `acc`.
        bias: integers of the bias; None without one or where it is float.
        bias_step: real value of one unit of `bias`.
        float_bias: of a layer whose bias stays float.
        real: exact values of a layer without weights; None for the others.
        plain: the same by the file's own constants, where the DPU has others; None elsewhere.
        shortcut: q·s of the integers that are added behind a weighted layer.
    """

    acc: Int64 | None = None
    step: Float64 | None = None
    bias: Int64 | None = None
    bias_step: Float64 | None = None
    float_bias: NDArray[np.float32] | None = None
    real: Float64 | None = None
    plain: Float64 | None = None
    shortcut: Float64 | None = None

    def take(self, where: NDArray[np.intp]) -> Ingredients:
        """These elements only."""
        names = ("acc", "step", "bias", "bias_step", "float_bias", "real", "plain", "shortcut")
        kept = {name: None if (value := getattr(self, name)) is None else value[where] for name in names}
        return Ingredients(**kept)


@dataclass(frozen=True, slots=True)
class Way:
    """How a layer's result becomes integers.

    Args:
        rounding: of the one rounding.
        activations: whether fused functions act.
        saturate: else what does not fit wraps around.
        plain: the file's constants in place of the DPU's.
    """

    rounding: Round
    activations: bool = True
    saturate: bool = True
    plain: bool = False


@dataclass(frozen=True, eq=False)
class Recomputation:
    """A layer with everything that its result follows from.

    Args:
        layer: as in the file.
        arithmetic: whose numbers; None: ONNX Runtime's.
        product: of a weighted layer.
        whole: all ingredients, flat.
        way: how the reference does it.
    """

    layer: Layer
    arithmetic: Arithmetic | None
    product: Product | None
    whole: Ingredients
    way: Way

    def integers(self, found: Ingredients, way: Way) -> Int64 | None:
        """The layer's integers; None where a fused function is not covered.

        Args:
            found: ingredients, changed or not.
            way: how they are finished.
        """
        v = self.in_steps(found, way)
        if v is None:
            return None
        out = self.layer.out
        q = round_by(way.rounding, v) + out.zero_point
        if way.saturate:
            return np.clip(q, out.low, out.high).astype(np.int64)
        wide = np.clip(q, -(2.0**62), 2.0**62).astype(np.int64)
        return (wide - out.low) % 256 + out.low

    def in_steps(self, found: Ingredients, way: Way) -> Float64 | None:
        """The result in steps of the output, flat, before its rounding; None where it is not covered."""
        out = float(self.layer.out.scale.reshape(()))
        single = self.single
        if found.acc is None:
            real = found.plain if way.plain and found.plain is not None else found.real
            assert real is not None
            return self._finished(real, way, out)
        assert found.step is not None
        if single == "runtime":
            # ONNX Runtime: the bias in the accumulator's units, one factor in single precision
            total = found.acc if found.bias is None else found.acc + found.bias
            if not self.layer.activations and found.float_bias is None and found.shortcut is None:
                factor = np.asarray(found.step, np.float32) / np.float32(out)
                return (total.astype(np.float32) * factor).astype(np.float64)
            made = total * found.step
            return self._finished(made if found.shortcut is None else made + found.shortcut, way, out)
        if single == "board":
            r = total_single(found)
            return self._finished(r.astype(np.float64), way, out)
        real = found.acc * found.step
        if found.shortcut is not None:
            real = real + found.shortcut
        if found.bias is not None and found.bias_step is not None:
            real = real + found.bias * found.bias_step
        if found.float_bias is not None:
            real = real + found.float_bias
        return self._finished(real, way, out)

    @property
    def single(self) -> str:
        """Where single precision decides: in "runtime", on a "board" with float scales, or nowhere ("")."""
        if self.arithmetic is None:
            return "runtime"
        return "" if self.arithmetic.power_of_two else "board"

    def _finished(self, r: Float64, way: Way, out: float) -> Float64 | None:
        dpu = self.arithmetic is not None and self.arithmetic.dpu_units and not way.plain
        for node, parameters in self.layer.activations if way.activations else ():
            made = activate(node, parameters, r, dpu=dpu)
            if made is None:
                return None
            r = made
        if self.single:
            return np.asarray((r.astype(np.float32) / np.float32(out)).astype(np.float64))
        return np.asarray(r / out)


def total_single(found: Ingredients) -> NDArray[np.float32]:
    """fl(fl(fl(acc)·m) + b), as docs/emulation.md has it for gpu, plus a quantized shortcut."""
    assert found.acc is not None
    assert found.step is not None
    r = found.acc.astype(np.float32) * found.step.astype(np.float32)
    if found.float_bias is not None:
        r = r + found.float_bias
    return r if found.shortcut is None else r + found.shortcut.astype(np.float32)


def recompute(
    layer: Layer,
    given: Mapping[str, Int64],
    parameters: tuple[Float64, ...] | None,
    arithmetic: Arithmetic | None,
    source: Float64 | None = None,
) -> Recomputation | None:
    """A layer's sums from given integers; None for an operator that is not covered.

    Args:
        layer: as in the file.
        given: integers by tensor.
        parameters: stored inputs of a function that stands alone.
        arithmetic: whose numbers; None: ONNX Runtime's.
        source: the float values of an input that becomes integers.
    """
    if layer.out.scale.size != 1:
        return None
    entering = layer.node is None
    rule = Round.HALF_EVEN
    if arithmetic is not None:
        rule = Round((arithmetic.entering if entering else arithmetic.layers).value)
    way = Way(rule)
    if entering:
        if source is None:
            return None
        return Recomputation(layer, arithmetic, None, Ingredients(real=source.reshape(-1)), way)
    if any(
        node.op_type in {"HardSwish"} and arithmetic is not None and arithmetic.dpu_units
        for node, _ in layer.activations
    ):
        return None
    product = product_of(layer, given)
    if product is None:
        dpu = arithmetic is not None and arithmetic.dpu_units
        if parameters is None:
            return None
        real = real_values(layer, given, parameters, dpu=dpu)
        if real is None:
            return None
        plain = real_values(layer, given, parameters, dpu=False) if dpu else None
        whole = Ingredients(real=real.reshape(-1), plain=None if plain is None else plain.reshape(-1))
        return Recomputation(layer, arithmetic, None, whole, way)
    whole = _weighted(layer, product, arithmetic)
    if layer.shortcut is not None and layer.shortcut.tensor is not None:
        step = layer.shortcut.step
        added = (given[layer.shortcut.tensor] - step.zero_point) * step.scale
        if added.shape != product.shape:
            return None
        whole = replace(whole, shortcut=added.reshape(-1))
    return Recomputation(layer, arithmetic, product, whole, way)


def _weighted(layer: Layer, product: Product, arithmetic: Arithmetic | None) -> Ingredients:
    x, w = layer.operands
    shape, axis = product.shape, product.channel_axis

    def each(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return spread_over(values, shape, axis)

    step: NDArray[np.generic] = x.step.scale * w.step.scale
    if arithmetic is None or not arithmetic.power_of_two:
        step = x.step.scale.astype(np.float32) * w.step.scale.astype(np.float32)
    found = Ingredients(acc=product.accumulator.reshape(-1), step=np.asarray(each(step), np.float64))
    if layer.bias is not None and layer.bias.values is not None:
        found = replace(
            found,
            bias=np.asarray(each(layer.bias.values - layer.bias.step.zero_point), np.int64),
            bias_step=np.asarray(each(layer.bias.step.scale), np.float64),
        )
    if layer.float_bias is not None:
        found = replace(found, float_bias=np.asarray(each(layer.float_bias), np.float32))
    return found
