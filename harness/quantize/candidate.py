"""A network on its way to int8: its plan and what calibration saw, with which scales and parameters can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from harness.errors import UserError
from harness.quantize.graph import Graph
from harness.quantize.observe import TensorStats
from harness.quantize.overrides import NO_OVERRIDES, Overrides, group_scale
from harness.quantize.placement import Plan
from harness.quantize.rescaling import Rescalings
from harness.quantize.rewrite import build
from harness.quantize.scales import Affine
from harness.quantize.score import scored_tensors
from harness.quantize.shift_limits import Held, Wanted, hold, layer_shifts
from harness.quantize.weights import (
    LayerParameters,
    bias_position,
    check_finite,
    layer_parameters,
    real_bias,
    weight_position,
)


@dataclass(frozen=True)
class Candidate:
    """One form of the float network, and what is known of it.

    Args:
        graph: the prepared network, or one with the same function whose channels are scaled.
        plan: what is quantized.
        tensors: name → what calibration saw.
        means: input of a weighted layer → mean per channel.
        overrides: what differs for single layers.
        rescaled: tensor → how its channels differ from the float network's of that name.
    """

    graph: Graph
    plan: Plan
    tensors: Mapping[str, TensorStats]
    means: Mapping[str, NDArray[np.float64]]
    overrides: Overrides = NO_OVERRIDES
    rescaled: Rescalings = field(default_factory=dict)

    def scales(self, method: str) -> Mapping[str, Affine]:
        """Scale and zero point of each group of tensors, within the board's shifts.

        Raises:
            UserError: the operands of a concatenation are too far apart for the board; see `held`.
        """
        held = self.held(method)
        if held.apart:
            msg = f"operands of {', '.join(sorted(held.apart))} are too far apart for the board's shifts"
            raise UserError(msg)
        return held.scales

    def held(self, method: str) -> Held:
        """The scales, concatenations that must not join them for the board's shifts, and what was moved for these."""
        return hold(self.graph, self.plan, self._best_scales(method), self._wanted)

    @cached_property
    def _wanted(self) -> Mapping[str, Wanted]:
        """Best positions of weights and biases, whatever the activations': where a board's shifts are limited."""
        rules = self.plan.rules
        found = {}
        for unit in self.plan.units if rules.shifts is not None else ():
            if unit.weight is not None:
                check_finite(self.graph, unit)
                bias = real_bias(self.graph, unit)
                found[unit.name] = Wanted(
                    weight_position(self.graph.array(unit.weight.tensor), rules, "minmax"),
                    None if bias is None else bias_position(bias, rules),
                )
        return found

    def _best_scales(self, method: str) -> dict[str, Affine]:
        """Scale and zero point of each group of tensors by what was seen alone.

        The network's scores are never clipped, whatever the method: the largest decide, and clipped ones tie.
        With the least squared error SqueezeNet on fpga agreed with float in 82 % of images instead of 92 %.
        """
        scores = {self.plan.group_of.get(name) for name in scored_tensors(self.graph)}
        return {
            group: group_scale(
                self.plan, self.overrides, group, self._seen(members), "minmax" if group in scores else method
            )
            for group, members in self.plan.observed.items()
        }

    def _seen(self, members: tuple[str, ...]) -> TensorStats:
        stats: TensorStats | None = None
        for name in members:
            seen = self.tensors.get(name)
            if seen is None:
                msg = f"calibration lacks the tensor {name!r}; calibrate again with layers='all'"
                raise UserError(msg)
            stats = seen if stats is None else stats.merged(seen)
        assert stats is not None
        return stats

    def nearest(
        self,
        method: str,
        scales: Mapping[str, Affine],
        corrections: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> dict[str, LayerParameters]:
        """Weights and biases rounded to nearest.

        Args:
            method: of the network; weights of power-of-two environments follow it.
            scales: of the activations.
            corrections: layer → what to add to its bias.
        """
        return {
            unit.name: layer_parameters(
                self.graph,
                unit,
                self.overrides.rules_of(unit, self.plan.rules),
                self.overrides.method_of(unit, method),
                float(scales[group].scale) if (group := self.plan.group_of.get(unit.data[0].tensor)) else None,
                (corrections or {}).get(unit.name),
                shifts=layer_shifts(self.plan, unit, scales),
                position=self._wanted[unit.name].weight if unit.name in self._wanted else None,
            )
            for unit in self.plan.units
            if unit.weight is not None
        }

    def network(self, scales: Mapping[str, Affine], parameters: Mapping[str, LayerParameters]) -> ModelProto:
        """The int8 network; layers without parameters keep their float ones."""
        return build(self.graph.model, self.plan, scales, parameters)
