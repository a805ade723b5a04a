"""The calibration table: one row per learnable and activation, under the column names users know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.quantize.graph import Graph
from harness.quantize.observe import TensorStats
from harness.quantize.placement import Layers, Plan
from harness.quantize.preparation import Prepared

TABLE_COLUMNS = (
    "Optimized Layer Name",
    "Network Layer Name",
    "Learnables / Activations",
    "MinValue",
    "MaxValue",
)

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Row = tuple[str, str, str, float, float]


def calibration_rows(
    prepared: Prepared, graph: Graph, plan: Plan, stats: Mapping[str, TensorStats], layers: Layers
) -> list[Row]:
    """Rows of the table: weights and biases, then activations in the network's order.

    With `layers="all"` there is one activation row per layer, fused and removed ones included; with "needed"
    one per observed tensor, named after the layer whose result it is.
    """
    return [*_learnables(graph), *_activations(prepared, graph, plan, stats, layers)]


def learnable_tensors(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """(layer, Weights or Bias, constant) of each layer of weights; what is added to a matrix product is its bias."""
    for node in graph.nodes:
        if node.op_type not in _WEIGHTED or node.domain:
            continue
        names = {"Weights": node.input[1], "Bias": node.input[2] if len(node.input) > 2 else ""}
        if node.op_type == "MatMul":
            use = graph.sole_use(node.output[0])
            if use is not None and use.node.op_type == "Add":
                names["Bias"] = use.node.input[1 - use.slot]
        for parameter, name in names.items():
            if name and graph.is_constant(name):
                yield node.name, parameter, name


def _learnables(graph: Graph) -> list[Row]:
    rows: list[Row] = []
    for layer, parameter, name in learnable_tensors(graph):
        value = graph.array(name)
        if value.size:
            rows.append((f"{layer}_{parameter}", layer, parameter, float(value.min()), float(value.max())))
    return rows


def _activations(
    prepared: Prepared, graph: Graph, plan: Plan, stats: Mapping[str, TensorStats], layers: Layers
) -> list[Row]:
    optimized = {member: unit.members for unit in plan.units for member in unit.members}
    rows: list[Row] = []

    def row(layer: str, tensor: str, fused: tuple[str, ...]) -> None:
        seen = stats.get(tensor)
        if seen is not None and seen.count:
            rows.append(("+".join(fused), layer, "Activations", seen.low, seen.high))

    for name in graph.inputs:
        row(name, name, (name,))
    carried: dict[str, list[str]] = {}
    for layer, tensor in prepared.removed.items():
        carried.setdefault(tensor, []).append(layer)
    for node in graph.nodes:
        output = next((name for name in node.output if name in stats), None)
        if output is None:
            continue
        members = optimized.get(node.name, (node.name,))
        row(node.name, output, members)
        if layers == "all":
            for layer in carried.get(output, ()):
                row(layer, output, members)
    return rows
