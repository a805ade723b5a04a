"""Where Q/DQ pairs go: which tensors are quantized, which of them share a scale, what has to be observed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnx import TensorProto

from harness.errors import UserError
from harness.quantize.graph import Graph
from harness.quantize.islands import leave_the_end_float, leave_the_islands_float, read_by, readers_of
from harness.quantize.rulebooks.rules import FixedScale, Kind, Placement, RuleBook
from harness.quantize.units import QUANTIZED_OPS, Port, Unit, find_units, part_of_excluded

Layers = Literal["needed", "all"]

NOT_RESIDUAL = "not the residual sum of a convolution: nothing to fuse into"
NO_INT8_NEIGHBOUR = "moves float values: no int8 layer beside it"


@dataclass(frozen=True)
class Plan:
    """What becomes of a network in one environment, before any number is known.

    Args:
        rules: the environment's rule book.
        units: the layers that compute in int8.
        group_of: quantized tensor → name of its scale group (tensors of one group share scale and zero point).
        edges: (node, slot) of each input that reads the quantized tensor.
        kept_float: name → reason of each layer that stays float.
        carried: layers that move int8 values although no Q/DQ stands beside them (gpu).
        observed: scale group → tensors whose values decide its scale.
        mean_axis: input of a weighted layer → its channel axis, for means per channel.
        fixed: scale group → the scale that its maker's operator gives it, whatever was observed.
        remarks: lines about layers that are int8 in a way a reader should know of.
    """

    rules: RuleBook
    units: tuple[Unit, ...]
    group_of: Mapping[str, str]
    edges: frozenset[tuple[str, int]]
    kept_float: Mapping[str, str]
    carried: tuple[str, ...]
    observed: Mapping[str, tuple[str, ...]]
    mean_axis: Mapping[str, int]
    fixed: Mapping[str, FixedScale] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def quantized_layers(self) -> tuple[str, ...]:
        """Names of all layers that compute in int8, fused ones included."""
        return tuple(member for unit in self.units for member in unit.members) + self.carried

    def observed_tensors(self) -> tuple[str, ...]:
        """The tensors that calibration has to look at."""
        return tuple(dict.fromkeys([name for names in self.observed.values() for name in names] + list(self.mean_axis)))


def make_plan(
    graph: Graph,
    rules: RuleBook,
    exclude: Collection[str] = (),
    mixed_heads: Mapping[str, str] | None = None,
    apart: Collection[str] = (),
) -> Plan:
    """Decide what is quantized.

    Args:
        graph: a prepared network.
        rules: the environment's rule book.
        exclude: layers to leave in float.
        mixed_heads: last layers whose channels do not fit one scale, with the reason (see `heads`). With weights
            per channel they multiply integers and return float; with one scale for all weights they stay float.
        apart: concatenations whose operands keep scales of their own in any case.

    Raises:
        UserError: an excluded layer does not exist, or the network is quantized already.
    """
    check_quantizable(graph, exclude)
    heads = mixed_heads or {}
    float_outputs = heads if rules.weight.per_channel else {}
    units, reasons = find_units(graph, rules, exclude if float_outputs else (*exclude, *heads))
    for head, reason in heads.items():
        stays = {name for name, given in reasons.items() if name == head or given == part_of_excluded(head)}
        reasons |= dict.fromkeys(stays, reason)
    if rules.placement is Placement.INPUTS:
        return _plan_inputs(graph, rules, units, reasons)
    return _plan_outputs(graph, rules, units, reasons, float_outputs, apart)


def check_quantizable(graph: Graph, exclude: Collection[str]) -> None:
    """Refuse unknown layer names and networks that are int8 already.

    Raises:
        UserError: naming the layer, with the nearest existing name.
    """
    names = [node.name for node in graph.nodes]
    for name in exclude:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            msg = f"exclude: the network has no layer {name!r}{hint}"
            raise UserError(msg)
    quantized = next((node for node in graph.nodes if node.op_type in QUANTIZED_OPS), None)
    if quantized is not None:
        msg = f"the network is quantized already (layer {quantized.name!r} is {quantized.op_type}); give the float one"
        raise UserError(msg)


def _plan_outputs(
    graph: Graph,
    rules: RuleBook,
    units: list[Unit],
    reasons: dict[str, str],
    float_outputs: Collection[str],
    apart: Collection[str],
) -> Plan:
    units = leave_the_end_float(graph, rules, units, reasons)
    units = leave_the_islands_float(graph, units, reasons)
    active = _active_units(units, reasons)
    active = _without_late_movers(graph, rules, active, reasons, float_outputs)
    readers = readers_of(active)
    unread = {unit.name for unit in active if not read_by(graph, unit, readers)}
    quantized = {port.tensor for unit in active for port in unit.data}
    for unit in active:
        # At the end of the network, float readers take what a layer makes in float, where it can.
        if unit.name not in unread or not (unit.kind is Kind.MOVES or _may_return_float(unit, rules, float_outputs)):
            quantized.update(unit.outputs)
    groups = _Groups(quantized)
    moved = {name for unit in active if unit.kind is Kind.MOVES for name in unit.outputs}
    keeps_its_scale = moved if rules.concat_rescales else set()
    for unit in active:
        if unit.kind is Kind.MOVES:
            groups.join(unit.data[0].tensor, *unit.outputs)
        elif unit.kind is Kind.CONCAT and unit.output in quantized and unit.name not in apart:
            # A tensor read by the concatenation alone is rounded once, to the result's scale.
            alone = [p.tensor for p in unit.data if len(graph.uses[p.tensor]) == 1]
            groups.join(unit.output, *(name for name in alone if name not in keeps_its_scale))
    made = {name for unit in active for name in unit.outputs}
    members = {member for unit in active for member in unit.members}
    edges = {
        (use.node.name, use.slot)
        for name in quantized
        for use in graph.uses[name]
        # A tensor made in float is read in float by float layers; one made in int8 exists in int8 only.
        if name in made or use.node.name in members
    }
    observed: dict[str, list[str]] = {}
    derived = {name for unit in active if unit.kind is Kind.MOVES for name in unit.outputs} | {
        port.tensor
        for unit in active
        if unit.kind is Kind.CONCAT
        for port in unit.data
        if unit.output in quantized and groups.root(port.tensor) == groups.root(unit.output)
    }
    for name in sorted(quantized):
        observed.setdefault(groups.root(name), [])
        if name not in derived:
            observed[groups.root(name)].append(name)
    # sorted: a set has another order in every process, and the same network must have the same digest
    group_of = {name: groups.root(name) for name in sorted(quantized)}
    fixed = {
        root: rules.fixed_scales[graph.producer[names[0]].op_type]
        for root, names in observed.items()
        if len(names) == 1 and names[0] in graph.producer and graph.producer[names[0]].op_type in rules.fixed_scales
    }
    return Plan(
        rules,
        tuple(active),
        group_of,
        frozenset(edges),
        reasons,
        (),
        {root: tuple(names) for root, names in observed.items()},
        _mean_axes(active),
        fixed,
        _remarks(rules, active),
    )


def _remarks(rules: RuleBook, units: list[Unit]) -> tuple[str, ...]:
    lines = []
    for op_type, remark in rules.unpacked.items():
        names = [unit.name for unit in units if unit.op_type == op_type]
        if names:
            lines.append(f"{op_type} {', '.join(repr(name) for name in names[:3])}{', …' * (len(names) > 3)}: {remark}")
    return tuple(lines)


def _may_return_float(unit: Unit, rules: RuleBook, float_outputs: Collection[str]) -> bool:
    return unit.op_type in rules.float_at_the_end or unit.name in float_outputs


def _without_late_movers(
    graph: Graph, rules: RuleBook, units: list[Unit], reasons: dict[str, str], float_outputs: Collection[str]
) -> list[Unit]:
    """Drop movers of a result that its layer returns in float: they would ask for int8 again."""
    readers = readers_of(units)
    returned = {
        name
        for unit in units
        if unit.kind is not Kind.MOVES and _may_return_float(unit, rules, float_outputs)
        if not read_by(graph, unit, readers)
        for name in unit.outputs
    }
    kept: list[Unit] = []
    for unit in units:
        if unit.kind is Kind.MOVES and unit.data[0].tensor in returned:
            returned.update(unit.outputs)
            reasons |= dict.fromkeys(unit.members, NO_INT8_NEIGHBOUR)
        else:
            kept.append(unit)
    return kept


def _active_units(units: list[Unit], reasons: dict[str, str]) -> list[Unit]:
    """Drop movers that have no int8 layer before or after them."""
    movers = {unit.name: unit for unit in units if unit.kind is Kind.MOVES}
    touched = {name for unit in units if unit.name not in movers for name in unit.outputs}
    touched |= {port.tensor for unit in units if unit.name not in movers for port in unit.data}
    alive: set[str] = set()
    changed = True
    while changed:
        changed = False
        for mover in movers.values():
            if mover.name in alive:
                continue
            if mover.data[0].tensor in touched or any(name in touched for name in mover.outputs):
                alive.add(mover.name)
                touched.update((mover.data[0].tensor, *mover.outputs))
                changed = True
    for name in movers.keys() - alive:
        reasons[name] = NO_INT8_NEIGHBOUR
    return [unit for unit in units if unit.name not in movers or unit.name in alive]


def _plan_inputs(graph: Graph, rules: RuleBook, units: list[Unit], reasons: dict[str, str]) -> Plan:
    made_by = {name: unit for unit in units for name in unit.outputs if unit.op_type in {"Conv", "ConvTranspose"}}
    active: list[Unit] = []
    ports: list[Port] = []
    movers: list[Unit] = []
    for unit in units:
        if unit.kind is Kind.MOVES:
            movers.append(unit)
            continue
        if unit.kind is Kind.ELEMENTWISE:
            shortcut = _shortcut(graph, unit, made_by)
            if shortcut is None:
                reasons |= dict.fromkeys(unit.members, NOT_RESIDUAL)
                continue
            ports.append(shortcut)
        else:
            ports.extend(unit.data)
        active.append(unit)
    edges = frozenset((port.node, port.slot) for port in ports)
    carried = []
    for mover in reversed(movers):
        uses = [use for name in mover.outputs for use in graph.uses[name]]
        if uses and all((use.node.name, use.slot) in edges or use.node.name in carried for use in uses):
            carried.append(mover.name)
        else:
            reasons[mover.name] = NO_INT8_NEIGHBOUR
    tensors = sorted({port.tensor for port in ports})
    return Plan(
        rules,
        tuple(active),
        {name: name for name in tensors},
        edges,
        reasons,
        tuple(reversed(carried)),
        {name: (name,) for name in tensors},
        _mean_axes(active),
    )


def _shortcut(graph: Graph, unit: Unit, made_by: Mapping[str, Unit]) -> Port | None:
    """The operand of a residual sum that does not come from the convolution it fuses into."""
    if len(unit.data) != 2 or unit.constants:
        return None
    for port, other in (unit.data, unit.data[::-1]):
        maker = made_by.get(port.tensor)
        if maker is not None and maker.bounds == (None, None) and graph.sole_use(port.tensor) is not None:
            return other
    return None


def _mean_axes(units: list[Unit]) -> dict[str, int]:
    """Channel axis of the data input of each layer with constant weights."""
    return {
        unit.data[0].tensor: 1 if unit.op_type in {"Conv", "ConvTranspose"} else -1
        for unit in units
        if unit.weight is not None and len(unit.data) == 1 and unit.data[0].slot == 0
    }


class _Groups:
    """Union-find over tensor names; the root is the member that joined first."""

    def __init__(self, members: Collection[str]) -> None:
        self._parent = {name: name for name in members}

    def root(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def join(self, first: str, *others: str) -> None:
        for other in others:
            if other in self._parent and first in self._parent:
                self._parent[self.root(other)] = self.root(first)


def tensors_to_observe(graph: Graph, plan: Plan, layers: Layers) -> tuple[str, ...]:
    """The tensors that calibration looks at, in the network's order: inputs first, then layer by layer.

    The order makes the first layer that goes wrong the one that an error names.
    """
    needed = set(plan.observed_tensors())
    names = [*graph.inputs, *(name for node in graph.nodes for name in node.output if name)]
    return tuple(
        name for name in names if name in needed or (layers == "all" and graph.element_type(name) == TensorProto.FLOAT)
    )
