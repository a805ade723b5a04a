"""Keeping a network's positions within what its board's shifts can do, at the least loss.

Only positions of activations are searched for; those of weights, biases and constant operands follow from them
(`shifts`). With the best positions wp and bp of a layer's weights and bias, its result must satisfy

    op ≤ ip + wp                a result finer than the layer's sums gains nothing
    op ≤ bp + 16                as does one 2^16 times finer than its bias

and whatever else shift_cut and shift_bias ask for is met by coarser weights (a cut above 16 bits drops what they lose)
or a coarser bias. All constraints let positions go down only, which saturates nothing, so the highest positions that
satisfy them are unique and what a walk through the network, repeated until nothing moves, ends in. An operand of a sum
that is needed elsewhere is not made coarser for that sum: the sum is float then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.quantize.graph import Graph
from harness.quantize.placement import Plan
from harness.quantize.rulebooks.rules import ShiftLimits
from harness.quantize.scales import HIGHEST_POSITION, LOWEST_POSITION, Affine, constant_scale, power_of_two
from harness.quantize.shifts import GATE_POSITION, PRODUCTS, SUMS, LayerShifts, constant_position, position_of
from harness.quantize.units import Unit

#: Moves that a one-line note names.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """Best positions of a layer's constants, were there no limits; None: absent, or any would do (all zero).

    Args:
        weight: of its weights.
        bias: of its bias.
    """

    weight: int | None
    bias: int | None


@dataclass(frozen=True)
class Held:
    """Scales within the limits.

    Args:
        scales: scale group → scale and zero point.
        refused: layer → why no positions of its operands satisfy the limits; it has to be float.
        moved: one line a position that was moved, in the network's order.
    """

    scales: Mapping[str, Affine]
    refused: Mapping[str, str]
    moved: tuple[str, ...]


def layer_shifts(plan: Plan, unit: Unit, scales: Mapping[str, Affine]) -> LayerShifts | None:
    """What is left to a layer's weights and bias; None without limits, or where its input is float."""
    limits, group = plan.rules.shifts, plan.group_of.get(unit.data[0].tensor)
    if limits is None or group is None:
        return None
    result = plan.group_of.get(unit.output)
    return LayerShifts(
        limits, position_of(scales[group].scale), None if result is None else position_of(scales[result].scale)
    )


def hold(graph: Graph, plan: Plan, scales: Mapping[str, Affine], wanted: Mapping[str, Wanted]) -> Held:
    """Lower positions until every layer's shifts are within the limits.

    Args:
        graph: the prepared network.
        plan: what is quantized.
        scales: scale group → best scale.
        wanted: layer with constant weights → their best positions.
    """
    limits = plan.rules.shifts
    if limits is None:
        return Held(scales, {}, ())
    walk = _Walk(graph, plan, limits, scales, wanted)
    walk.settle()
    held = {
        group: affine
        if walk.positions[group] == position_of(affine.scale)
        else replace(affine, scale=np.float32(power_of_two(-walk.positions[group])))
        for group, affine in scales.items()
    }
    return Held(held, walk.refused(), tuple(_moves(plan, scales, held, wanted)))


def note_of(moved: tuple[str, ...]) -> str:
    """The moves in one line."""
    more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    return f"positions lowered to keep the board's shifts: {', '.join(moved[:_NAMED])}{more}"


class _Walk:
    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        limits: ShiftLimits,
        scales: Mapping[str, Affine],
        wanted: Mapping[str, Wanted],
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._limits = limits
        self._wanted = wanted
        self._constants = {
            unit.name: _best(graph.array(unit.constants[0].tensor), plan)
            for unit in plan.units
            if unit.constants and unit.op_type in PRODUCTS | SUMS
        }
        self._sizes: dict[str, int] = {}
        for group in plan.group_of.values():
            self._sizes[group] = self._sizes.get(group, 0) + 1
        self._bottomless: dict[str, str] = {}
        self.positions = {group: position_of(affine.scale) for group, affine in scales.items()}

    def settle(self) -> None:
        """Lower positions until no layer asks for it. Each step lowers one by 1 at least, and none below the floor."""
        moved = True
        while moved:
            moved = False
            for unit in self._plan.units:
                for group, bound in self._bounds(unit):
                    if self.positions[group] <= bound:
                        continue
                    if bound < LOWEST_POSITION:
                        # Its result shares a scale with its own input: every step down asks for another.
                        self._bottomless[unit.name] = (
                            "its result shares a scale with its input, from which its weights move it too far away"
                        )
                        continue
                    self.positions[group] = bound
                    moved = True

    def refused(self) -> dict[str, str]:
        """Layers with operands too far apart, which other layers need as they are."""
        if self._bottomless:
            # One at a time: those behind it went down with it.
            name, why = next(iter(self._bottomless.items()))
            return {name: f"{why}: the board cannot shift so far"}
        return {unit.name: reason for unit in self._plan.units if (reason := self._problem(unit)) is not None}

    def _bounds(self, unit: Unit) -> Iterator[tuple[str, int]]:
        """(scale group, highest position that this layer lets it have)."""
        result = self._plan.group_of.get(unit.output)
        if unit.weight is not None:
            wanted, group = self._wanted[unit.name], self._plan.group_of.get(unit.data[0].tensor)
            if result is not None and group is not None:
                weight = HIGHEST_POSITION if wanted.weight is None else wanted.weight
                yield result, self.positions[group] + weight
            if result is not None and wanted.bias is not None:
                yield result, wanted.bias + self._limits.bias
        elif unit.op_type in PRODUCTS | SUMS:
            operands = self._operands(unit)
            if operands is None:
                return
            if unit.op_type in SUMS:
                if result is not None:
                    yield result, max(operands) + self._limits.write
                highest = min(operands) + self._limits.read
                if result is not None:
                    highest = min(highest, self.positions[result] + self._limits.write)
                for group in self._own(unit):
                    yield group, highest
            elif result is not None:
                yield result, sum(operands)
                for group in self._own(unit):
                    yield group, self.positions[result] + self._limits.cut - (sum(operands) - self.positions[group])

    def _problem(self, unit: Unit) -> str | None:
        operands = self._operands(unit) if unit.op_type in PRODUCTS | SUMS and unit.weight is None else None
        if operands is None:
            return None
        group = self._plan.group_of.get(unit.output)
        result = None if group is None else self.positions[group]
        if unit.op_type in SUMS:
            apart = max(operands) - min(operands)
            if apart > self._limits.read:
                return f"its operands' steps differ 2^{apart}-fold: the board cannot shift so far"
            if result is not None and max(operands) - result > self._limits.write:
                return f"its result is 2^{max(operands) - result} times coarser: the board cannot shift so far"
        elif result is not None and sum(operands) - result > self._limits.cut:
            return f"its result is 2^{sum(operands) - result} times coarser: the board cannot shift so far"
        return None

    def _operands(self, unit: Unit) -> list[int] | None:
        """Positions of both operands; None where one is float."""
        groups = [self._plan.group_of.get(port.tensor) for port in unit.data]
        if not groups or None in groups:
            return None
        found = [self.positions[group] for group in groups if group is not None]
        if unit.op_type == "HardSwish":
            return [*found, GATE_POSITION]
        if unit.name in self._constants:
            # As it is going to be written.
            group = self._plan.group_of.get(unit.output)
            result = None if group is None else self.positions[group]
            found.append(constant_position(self._limits, unit.op_type, self._constants[unit.name], found[0], result))
        return found if len(found) == 2 else None

    def _own(self, unit: Unit) -> Iterator[str]:
        """Scale groups that this layer alone reads and nothing else shares."""
        for port in unit.data:
            group = self._plan.group_of.get(port.tensor)
            if group is None or self._sizes[group] > 1 or port.tensor in self._graph.outputs:
                continue
            if all(use.node.name == port.node for use in self._graph.uses[port.tensor]):
                yield group


def _best(constant: NDArray[np.float32], plan: Plan) -> int | None:
    """Position of a constant operand, were there no limits; None: any (it is all zero)."""
    return position_of(constant_scale(constant, plan.rules.activation).scale) if constant.any() else None


def _moves(
    plan: Plan, before: Mapping[str, Affine], after: Mapping[str, Affine], wanted: Mapping[str, Wanted]
) -> Iterator[str]:
    told: set[str] = set()
    for unit in plan.units:
        for tensor in (*(port.tensor for port in unit.data), *unit.outputs):
            group = plan.group_of.get(tensor)
            if group is None or group in told:
                continue
            told.add(group)
            yield from _move(repr(tensor), position_of(before[group].scale), position_of(after[group].scale))
        shifts = layer_shifts(plan, unit, after)
        best = wanted.get(unit.name)
        if shifts is None or best is None:
            continue
        weight = shifts.weight(best.weight, best.bias)
        if best.weight is not None:
            yield from _move(f"weights of {unit.name!r}", best.weight, weight)
        if best.bias is not None:
            yield from _move(f"bias of {unit.name!r}", best.bias, shifts.bias(best.bias, weight))


def _move(what: str, before: int, after: int) -> Iterator[str]:
    if after != before:
        yield f"{what} 2^{-before} → 2^{-after}"
