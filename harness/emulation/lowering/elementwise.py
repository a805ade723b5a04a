"""Sums, differences and products of two tensors; concatenation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from harness.emulation.exact import Value
from harness.emulation.integer_network import Constant, Layer, Operand, QuantizedTensor
from harness.emulation.lowering import dpu
from harness.emulation.lowering.context import Context, Outcome, Uncovered, exponent
from harness.emulation.lowering.functions import leave
from harness.emulation.lowering.rounding import finish, rounded


def _in_steps(context: Context, operand: Operand, there: int) -> Value:
    """An operand in units of 2^there."""
    if isinstance(operand, Constant):
        exponent(operand)
        return context.expressions.given(operand.in_steps_of(there), "operand")
    return context.expressions.times(context.value(operand), Fraction(2) ** (exponent(operand) - there))


def lower_sum(context: Context, layer: Layer) -> Outcome:
    """Add or Sub: operands aligned, summed, rounded once."""
    there = exponent(layer.result)
    if context.arithmetic.dpu_units:
        dpu.check_add([exponent(layer.operands[slot]) for slot in (0, 1)], there)
    left, right = (_in_steps(context, layer.operands[slot], there) for slot in (0, 1))
    e = context.expressions
    value = e.add(left, right) if layer.node.op_type == "Add" else e.subtract(left, right)
    return leave(context, layer, value)


def lower_mul(context: Context, layer: Layer) -> Outcome:
    """Mul: integers multiplied, rounded once."""
    factors: list[Value] = []
    shift = -exponent(layer.result)
    for slot in (0, 1):
        operand = layer.operands[slot]
        shift += exponent(operand)
        factors.append(_in_steps(context, operand, exponent(operand)))
    e = context.expressions
    return leave(context, layer, e.times(e.multiply(*factors), Fraction(2) ** shift))


def lower_concat(context: Context, layer: Layer) -> Outcome:
    """Each operand at the result's step, side by side."""
    if layer.functions:
        raise Uncovered("an activation function stands behind a concatenation")
    there, kinds = exponent(layer.result), (layer.result.low, layer.result.high)
    e = context.expressions
    names: list[str] = []
    bounds: list[int] = []
    for slot in range(len(layer.node.input)):
        operand = layer.operands[slot]
        if isinstance(operand, QuantizedTensor):
            moved = requantized(context, operand, there, *kinds)
            names.append(moved.name)
            bounds += [int(moved.low), int(moved.high)]
        else:
            exponent(operand)
            exact = operand.in_steps_of(there)
            whole = [rounded(Fraction(float(number)), context.arithmetic.layers) for number in exact.reshape(-1)]
            constant = np.clip(np.array(whole, np.float64), *kinds).reshape(exact.shape)
            names.append(e.array(constant.astype(np.float32), "operand"))
            bounds += [int(constant.min(initial=kinds[1])), int(constant.max(initial=kinds[0]))]
    name = e.node("Concat", names)
    e.nodes[-1].attribute.extend(layer.node.attribute)
    value = Value(name, "float32", Fraction(min(bounds)), Fraction(max(bounds)), 0)
    e.identity(value, layer.result.name)
    return Outcome(min(bounds), max(bounds))


def requantized(context: Context, tensor: QuantizedTensor, there: int, low: int, high: int) -> Value:
    """Integers at another step, rounded and saturated; themselves where step and type are the same."""
    e = context.expressions
    value = e.times(context.value(tensor), Fraction(2) ** (exponent(tensor) - there))
    if value.name == tensor.name and value.low >= low and value.high <= high:
        return value
    return finish(e, value, low, high, context.arithmetic.layers, e.fresh("requantized"))
