"""Names of layers across preparation: what a user calls a layer may be several prepared nodes, or none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harness.quantize.placement import Plan
from harness.quantize.preparation import Prepared
from harness.quantize.recurrent.unroll import GATES_FLOAT
from harness.quantize.units import EXCLUDED


@dataclass(frozen=True)
class LayerReport:
    """The layers of an int8 network under the names that the float network has for them.

    Args:
        quantized: layers that compute in int8; a recurrent layer whose matrix products do.
        kept_float: name → reason of the others; what stays float of a recurrent layer is `<layer>/gates and state`.
    """

    quantized: tuple[str, ...]
    kept_float: Mapping[str, str]


def as_prepared(exclude: Collection[str], prepared: Prepared) -> list[str]:
    """Names of the layers that compute now what the named ones did.

    A folded normalization is its convolution, a recurrent layer that was written out is all of its parts, and a
    removed dropout is gone.
    """
    present = {node.name for node in prepared.model.graph.node}
    names: list[str] = []
    for name in exclude:
        layer = name
        while layer in prepared.folded:
            layer = prepared.folded[layer]
        if layer in prepared.unrolled:
            names.extend(part for part in prepared.unrolled[layer] if part in present)
        elif layer not in prepared.removed:
            names.append(layer)
    return names


def report_layers(plan: Plan, prepared: Prepared) -> LayerReport:
    """What became of each layer, recurrent ones as a whole."""
    whole = {part: layer for layer, parts in prepared.unrolled.items() for part in parts}
    operators = {node.name: node.op_type for node in prepared.model.graph.node}
    quantized = tuple(dict.fromkeys(whole.get(name, name) for name in plan.quantized_layers))
    kept: dict[str, str] = {}
    for name, reason in plan.kept_float.items():
        layer = whole.get(name)
        if layer is None:
            kept[name] = reason
        elif layer not in quantized and reason == EXCLUDED:
            kept[layer] = reason
        elif operators.get(name) == "Gemm":
            kept[name] = reason
        elif layer in quantized:
            kept[f"{layer}/gates and state"] = GATES_FLOAT
    return LayerReport(quantized, kept)
