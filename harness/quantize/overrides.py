"""Choices for single layers that replace the environment's: how a range is chosen, weights, symmetry."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from harness.errors import UserError
from harness.quantize.graph import Graph
from harness.quantize.observe import TensorStats
from harness.quantize.placement import Plan
from harness.quantize.rulebooks.rules import RuleBook
from harness.quantize.scales import Affine, activation_scale, check_method
from harness.quantize.units import Unit

WeightScales = Literal["per-tensor", "per-channel"]
Symmetry = Literal["symmetric", "asymmetric"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "weights": ("per-tensor", "per-channel"),
    "activation": ("symmetric", "asymmetric"),
}


@dataclass(frozen=True, slots=True)
class LayerOverride:
    """What differs for one layer; None leaves the environment's choice.

    Args:
        method: how the range of the layer's result is chosen: minmax, percentile, mse, entropy, histogram.
        weights: one scale for all of its weights, or one per output channel.
        activation: zero point of its result fixed in the middle, or free.
    """

    method: str | None = None
    weights: WeightScales | None = None
    activation: Symmetry | None = None

    def as_json(self) -> dict[str, str]:
        """The fields that are set."""
        fields = {"method": self.method, "weights": self.weights, "activation": self.activation}
        return {name: value for name, value in fields.items() if value is not None}


def parse_overrides(given: Mapping[str, Any] | None) -> dict[str, LayerOverride]:
    """Layer → override from plain dictionaries, as a job file or a caller has them.

    Raises:
        UserError: an unknown field or value, with the known ones.
    """
    return {str(layer): _parse(str(layer), fields) for layer, fields in (given or {}).items()}


def _parse(layer: str, fields: Any) -> LayerOverride:  # noqa: ANN401  # whatever the file holds
    if isinstance(fields, LayerOverride):
        fields = fields.as_json()
    if not isinstance(fields, Mapping):
        msg = f"overrides: {layer!r} needs fields, like {{method: percentile}}"
        raise UserError(msg)
    for name, value in fields.items():
        if name == "method":
            check_method(value)
        elif name not in _CHOICES:
            msg = f"overrides: {layer!r} has an unknown field {name!r}; choose from method, {', '.join(_CHOICES)}"
            raise UserError(msg)
        elif value not in _CHOICES[name]:
            msg = f"overrides: {name} of {layer!r} is {value!r}; choose {' or '.join(_CHOICES[name])}"
            raise UserError(msg)
    return LayerOverride(**fields)


@dataclass(frozen=True)
class Overrides:
    """Overrides brought down to what they change in one plan.

    Args:
        of_group: scale group → what differs for its tensors.
        of_unit: int8 layer → what differs for its weights.
    """

    of_group: Mapping[str, LayerOverride]
    of_unit: Mapping[str, LayerOverride]

    def rules_of(self, unit: Unit, rules: RuleBook) -> RuleBook:
        """The rule book that holds for a layer's weights."""
        override = self.of_unit.get(unit.name)
        if override is None or override.weights is None:
            return rules
        return replace(rules, weight=replace(rules.weight, per_channel=override.weights == "per-channel"))

    def method_of(self, unit: Unit, method: str) -> str:
        """The method that holds for a layer's weights."""
        override = self.of_unit.get(unit.name)
        return method if override is None or override.method is None else override.method


NO_OVERRIDES = Overrides({}, {})


def resolve_overrides(graph: Graph, plan: Plan, given: Mapping[str, LayerOverride]) -> Overrides:
    """What overrides by layer mean in a plan.

    Args:
        graph: the prepared network.
        plan: what is quantized.
        given: layer, or network input → override.

    Raises:
        UserError: no such layer, it is not int8 here, the environment cannot do it, or two layers that share a
            scale want it chosen differently.
    """
    of_group: dict[str, LayerOverride] = {}
    of_unit: dict[str, LayerOverride] = {}
    wanted_by: dict[str, str] = {}
    for layer, override in given.items():
        _check_possible(plan.rules, layer, override)
        unit = next((unit for unit in plan.units if layer in unit.members), None)
        tensors = _results(graph, plan, layer, unit)
        if unit is not None and unit.weight is not None:
            of_unit[unit.name] = override
        elif override.weights is not None:
            msg = f"overrides: {layer!r} has no int8 weights in the {plan.rules.environment} environment"
            raise UserError(msg)
        for name in tensors:
            group = plan.group_of[name]
            if group in of_group and of_group[group] != override:
                msg = (
                    f"overrides: {layer!r} and {wanted_by[group]!r} share one scale and cannot have different ones; "
                    "give both the same"
                )
                raise UserError(msg)
            of_group[group], wanted_by[group] = override, layer
        if not tensors and (unit is None or unit.weight is None):
            msg = f"overrides: the result of {layer!r} is not quantized in the {plan.rules.environment} environment"
            raise UserError(msg)
    return Overrides(of_group, of_unit)


def _results(graph: Graph, plan: Plan, layer: str, unit: Unit | None) -> list[str]:
    """The quantized tensors that a layer, or the layer it is fused into, makes."""
    if layer in graph.inputs:
        names: Iterable[str] = (layer,)
    elif unit is not None:
        names = unit.outputs
    else:
        node = next((node for node in graph.nodes if node.name == layer), None)
        if node is None:
            known = [*graph.inputs, *(node.name for node in graph.nodes)]
            near = difflib.get_close_matches(layer, known, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            msg = f"overrides: the network has no layer {layer!r}{hint}"
            raise UserError(msg)
        names = node.output
    return [name for name in names if name in plan.group_of]


def _check_possible(rules: RuleBook, layer: str, override: LayerOverride) -> None:
    where = f"in the {rules.environment} environment"
    if override.activation == "asymmetric" and rules.activation.symmetric:
        msg = f"overrides: {layer!r} cannot be asymmetric {where}: its zero point is always 0"
        raise UserError(msg)
    if override.weights == "per-channel" and rules.weight.power_of_two:
        msg = f"overrides: {layer!r} cannot have weights per channel {where}: one power of two for all of them"
        raise UserError(msg)


def group_scale(plan: Plan, overrides: Overrides, group: str, stats: TensorStats, method: str) -> Affine:
    """Scale and zero point of a group of tensors.

    A layer's own choice comes first, then the range that the operator itself gives, then the network's method.

    Args:
        plan: what is quantized.
        overrides: choices for single layers.
        group: one of `plan.observed`.
        stats: what calibration saw of its tensors together.
        method: the network's.
    """
    rules = plan.rules
    override = overrides.of_group.get(group)
    fixed = plan.fixed.get(group)
    if override is None and fixed is not None:
        return Affine(np.float32(fixed.scale), fixed.zero_point, *((0, 255) if fixed.unsigned else (-128, 127)))
    kind = rules.activation
    if override is not None:
        method = override.method or method
        if override.activation is not None:
            kind = replace(kind, symmetric=override.activation == "symmetric")
    members = plan.observed[group]
    maker = next((unit for unit in plan.units if members[0] in unit.outputs), None)
    return activation_scale(
        stats,
        kind,
        method,
        position_search=rules.position_search,
        bounds=maker.bounds if maker is not None and len(members) == 1 else (None, None),
    )
