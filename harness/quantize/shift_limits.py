"""Keeping a network's positions within what its board's shifts can do, at the least loss.

Only positions of activations are searched for; those of weights, biases and constant operands follow from them
(`shifts`). With the best positions wp and bp of a layer's weights and bias, its result must satisfy

    op ≤ ip + wp                a result finer than the layer's sums gains nothing
    op ≤ bp + 16                as does one 2^16 times finer than its bias

and whatever else shift_cut and shift_bias ask for is met by coarser weights (a cut above 16 bits drops what they lose)
or a coarser bias. All constraints let positions go down only, which saturates nothing, so the highest positions that
satisfy them are unique and what a walk through the network, repeated until nothing moves, ends in. An operand of a sum
that is needed as it is elsewhere is not made coarser for that sum, but rounded once more in front of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.quantize.graph import Graph
from harness.quantize.placement import Plan
from harness.quantize.rulebooks.rules import Kind, ShiftLimits
from harness.quantize.scales import HIGHEST_POSITION, LOWEST_POSITION, Affine, constant_scale, power_of_two
from harness.quantize.shifts import (
    GATE_POSITION,
    PRODUCTS,
    SUMS,
    LayerShifts,
    finest_result,
    operand_positions,
    position_of,
)
from harness.quantize.units import Port, Unit

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
        apart: concatenations whose operands no common position can serve: those need positions of their own, and then
            all is to be looked at anew; empty where the scales are within the limits.
        moved: one line a position that was moved, in the network's order.
    """

    scales: Mapping[str, Affine]
    apart: frozenset[str]
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
        return Held(scales, frozenset(), ())
    walk = _Walk(graph, plan, limits, scales, wanted)
    walk.settle()
    held = {
        group: affine
        if walk.positions[group] == position_of(affine.scale)
        else replace(affine, scale=np.float32(power_of_two(-walk.positions[group])))
        for group, affine in scales.items()
    }
    return Held(held, walk.apart, tuple(_moves(graph, plan, scales, held, wanted)))


@dataclass(frozen=True, slots=True)
class Operand:
    """One of the two operands of a sum or product.

    Args:
        port: where it enters; None for the gate of a HardSwish.
        made: its own position.
        read: the position at which this layer can take it.
    """

    port: Port | None
    made: int
    read: int


def operands_of(graph: Graph, plan: Plan, unit: Unit, positions: Mapping[str, int]) -> list[Operand] | None:
    """Both operands of a sum or product of 8-bit values, a constant first; None of other layers, or without limits.

    Args:
        graph: the prepared network.
        plan: what is quantized.
        unit: the layer.
        positions: of the scale groups.
    """
    limits = plan.rules.shifts
    if limits is None or unit.weight is not None or unit.op_type not in PRODUCTS | SUMS:
        return None
    groups = [plan.group_of.get(port.tensor) for port in unit.data]
    result = positions.get(plan.group_of.get(unit.output, ""))
    made = [(port, positions[group]) for port, group in zip(unit.data, groups, strict=True) if group is not None]
    ports: list[tuple[Port | None, int]] = [*made]
    if unit.constants and made:
        value = graph.array(unit.constants[0].tensor)
        other = made[0][1]
        own = position_of(constant_scale(value, plan.rules.activation).scale)
        if not value.any():  # any position would do
            own = other if unit.op_type in SUMS else (result or 0) - other
        ports.insert(0, (unit.constants[0], own))
    elif unit.op_type == "HardSwish":
        ports.append((None, GATE_POSITION))
    if len(ports) != 2:
        return None
    read = operand_positions(limits, unit.op_type, [position for _, position in ports], result)
    return [Operand(port, position, at) for (port, position), at in zip(ports, read, strict=True)]


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
        self._sizes = Counter(plan.group_of.values())
        self.positions = {group: position_of(affine.scale) for group, affine in scales.items()}
        #: Concatenations whose operands cannot share a position.
        self.apart: frozenset[str] = frozenset()
        #: Scale group → the one that lowered it last.
        self._lowered_by: dict[str, str | None] = {}

    def settle(self) -> None:
        """Lower positions until no layer asks for it. Each step lowers one by 1 at least, and none below the floor."""
        moved = True
        while moved:
            moved = False
            for unit in self._plan.units:
                for group, bound, source in self._bounds(unit):
                    if self.positions[group] <= bound:
                        continue
                    self._lowered_by[group] = source
                    if bound < LOWEST_POSITION:
                        self.apart = self._joins_around(group)
                        return
                    self.positions[group] = bound
                    moved = True

    def _joins_around(self, group: str) -> frozenset[str]:
        """The concatenations of a circle in which each group lowers the next.

        Only a concatenation gives a layer's result the scale of something that the layer depends on.
        """
        at: str | None = group
        for _ in self.positions:  # back into the circle, wherever downstream of it the floor was met
            at = self._lowered_by.get(at or "", None) or at
        circle = {at}
        while (at := self._lowered_by.get(at or "")) is not None and at not in circle:
            circle.add(at)
        joins = {
            unit.name: self._plan.group_of.get(unit.output) for unit in self._plan.units if unit.kind is Kind.CONCAT
        }
        return frozenset(name for name, its in joins.items() if its in circle) or frozenset(joins)

    def _bounds(self, unit: Unit) -> Iterator[tuple[str, int, str | None]]:
        """(scale group, highest position that this layer lets it have, the group by which)."""
        result = self._plan.group_of.get(unit.output)
        if unit.weight is not None and result is not None:
            wanted, group = self._wanted[unit.name], self._plan.group_of.get(unit.data[0].tensor)
            if group is not None:
                weight = HIGHEST_POSITION if wanted.weight is None else wanted.weight
                yield result, self.positions[group] + weight, group
            if wanted.bias is not None:
                yield result, wanted.bias + self._limits.bias, None
        operands = operands_of(self._graph, self._plan, unit, self.positions)
        if operands is None:
            return
        groups = [None if one.port is None else self._plan.group_of.get(one.port.tensor) for one in operands]
        if result is not None:
            bound = finest_result(self._limits, unit.op_type, [operand.made for operand in operands])
            coarser = min((one for one in groups if one is not None), key=lambda one: self.positions[one])
            yield result, bound, coarser
        for operand, group in zip(operands, groups, strict=True):
            # What others need as it is, is rounded once more for this layer instead.
            lowered = operand.read < operand.made
            if lowered and group is not None and operand.port is not None and self._alone(operand.port):
                yield group, operand.read, result

    def _alone(self, port: Port) -> bool:
        """Whether this layer alone reads a tensor whose scale nothing else shares."""
        group = self._plan.group_of.get(port.tensor)
        if group is None or self._sizes[group] > 1:
            return False
        if port.tensor in self._graph.outputs or port.tensor in self._graph.read_in_bodies:
            return False
        return all(use.node.name == port.node for use in self._graph.uses[port.tensor])


def _moves(
    graph: Graph, plan: Plan, before: Mapping[str, Affine], after: Mapping[str, Affine], wanted: Mapping[str, Wanted]
) -> Iterator[str]:
    told: set[str] = set()
    positions = {group: position_of(affine.scale) for group, affine in after.items()}
    for unit in plan.units:
        for tensor in (*(port.tensor for port in unit.data), *unit.outputs):
            group = plan.group_of.get(tensor)
            if group is None or group in told:
                continue
            told.add(group)
            yield from _move(repr(tensor), position_of(before[group].scale), position_of(after[group].scale))
        for operand in operands_of(graph, plan, unit, positions) or ():
            if operand.port is not None:
                yield from _move(f"{operand.port.tensor!r} for {unit.name!r}", operand.made, operand.read)
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
