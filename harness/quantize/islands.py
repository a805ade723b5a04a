"""Layers that have int8 rules but nothing to gain from them: at the end of a network, or between float layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from harness.quantize.graph import Graph
from harness.quantize.rulebooks.rules import Kind, RuleBook
from harness.quantize.units import Unit

Readers = Mapping[tuple[str, int], Unit]

END_OF_NETWORK = "only float reads its result: kept in float so that scores keep their resolution"
JOINS_RESULTS = "joins results after the last int8 layer: on one common scale the smaller ones would lose their levels"
DECODES = "computes with constants after the last int8 layer (decoding of scores and boxes): kept in float"
AFTER_FLOAT = "computes with constants on what a float layer made: int8 here would only round once more"
ISLAND = "float layers on all sides: int8 here would only round twice"


def readers_of(units: Collection[Unit]) -> dict[tuple[str, int], Unit]:
    """Which layer each data input (node, slot) belongs to."""
    return {(port.node, port.slot): unit for unit in units for port in unit.data}


def read_by(graph: Graph, unit: Unit, readers: Readers) -> bool:
    """Whether an int8 layer reads this one's result, directly or through layers that only move values."""
    pending = list(unit.outputs)
    while pending:
        for use in graph.uses[pending.pop()]:
            reader = readers.get((use.node.name, use.slot))
            if reader is None:
                continue
            if reader.kind is not Kind.MOVES:
                return True
            pending.extend(reader.outputs)
    return False


def leave_the_end_float(graph: Graph, rules: RuleBook, units: list[Unit], reasons: dict[str, str]) -> list[Unit]:
    """Walk back from the outputs: what has no weights and feeds only float stays float itself.

    This is what keeps the decoding of a detector in float: it is the part of the graph after the last layer
    with weights, whatever its layers are called.

    Args:
        graph: a prepared network.
        rules: the environment's; `float_at_the_end` lists what may stay float. Sums and products with constants
            (grids, anchors, strides) may everywhere.
        units: the int8 layers, in order.
        reasons: completed with those that go.

    Returns:
        the int8 layers that remain.
    """
    readers = readers_of(units)
    gone: set[str] = set()
    for unit in reversed(units):
        decodes = _with_constants(unit)
        if unit.kind is Kind.WEIGHTED or not (decodes or unit.op_type in rules.float_at_the_end):
            continue
        if read_by(graph, unit, readers):
            continue
        gone.add(unit.name)
        for port in unit.data:
            del readers[port.node, port.slot]
        reason = JOINS_RESULTS if unit.kind is Kind.CONCAT else DECODES if decodes else END_OF_NETWORK
        reasons |= dict.fromkeys(unit.members, reason)
    return [unit for unit in units if unit.name not in gone]


def leave_the_islands_float(graph: Graph, units: list[Unit], reasons: dict[str, str]) -> list[Unit]:
    """Drop layers that would quantize a float value only to hand float on.

    A sum or product with constants needs an int8 value to begin with; other layers without weights need int8 on
    one side at least. Network inputs count as int8 for the latter: a board is fed integers.
    """
    active = list(units)
    while True:
        readers = readers_of(active)
        movers = {name: unit for unit in active if unit.kind is Kind.MOVES for name in unit.outputs}
        made = {name for unit in active if unit.kind is not Kind.MOVES for name in unit.outputs}
        gone: dict[str, str] = {}
        for unit in active:
            if unit.kind in {Kind.WEIGHTED, Kind.MOVES}:
                continue
            origins = {_origin(port.tensor, movers) for port in unit.data}
            if _with_constants(unit) and not origins & made:
                gone[unit.name] = AFTER_FLOAT
            elif not origins & (made | set(graph.inputs)) and not read_by(graph, unit, readers):
                gone[unit.name] = ISLAND
        if not gone:
            return active
        for unit in active:
            if unit.name in gone:
                reasons |= dict.fromkeys(unit.members, gone[unit.name])
        active = [unit for unit in active if unit.name not in gone]


def _with_constants(unit: Unit) -> bool:
    return unit.kind is Kind.ELEMENTWISE and bool(unit.constants)


def _origin(name: str, movers: Mapping[str, Unit]) -> str:
    """The tensor whose values a moved tensor holds."""
    while name in movers:
        name = movers[name].data[0].tensor
    return name
