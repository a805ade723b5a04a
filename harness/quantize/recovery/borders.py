"""Border scaling: channels of a float tensor are made alike just before an int8 layer reads them.

Where a float layer feeds an int8 one (magnitudes of a spectrum, a normalization), no layer before it can take a scale
over, as equalization asks. A product per channel can: W·x = (W/s)·(s·x). It costs one float product, so it is put in
only where channels are really unlike. As in SmoothQuant (Xiao et al., 2023) the share `ALPHA` of the unlikeness moves
from the activations into the weights; by powers of two, so that not one bit of the float network's result changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from harness.quantize.candidate import Candidate
from harness.quantize.graph import Graph, attribute, replace_nodes, set_initializer
from harness.quantize.marks import mark_float
from harness.quantize.observe import TensorStats
from harness.quantize.recovery.equalization import FloatArray
from harness.quantize.recovery.rescaled import Replan
from harness.quantize.recovery.stepper import Feed
from harness.quantize.rulebooks.rules import MOVERS
from harness.quantize.runtime import open_session, run_session, with_outputs
from harness.quantize.units import Unit

#: Share of the activations' unlikeness that the weights take over: that of SmoothQuant.
ALPHA = 0.5
#: Half of the channels use less than this share of the tensor's range: they have lost three bits of eight.
UNLIKE = 1 / 8
#: A channel is scaled by at most 2^6.
_MOST_DOUBLINGS = 6
#: Layers through which a channel's scale passes unchanged.
_PASSING = MOVERS | {
    "AveragePool",
    "Clip",
    "Concat",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LeakyRelu",
    "Relu",
}
REASON = "scales the channels of a float tensor for the int8 layer behind it"


@dataclass(frozen=True)
class Border:
    """Where an int8 layer reads what float layers made.

    Args:
        layer: the int8 layer.
        tensor: what it reads, channels on axis 1.
        weight: its weights, [outputs, channels, …].
    """

    layer: str
    tensor: str
    weight: str


def with_scaled_borders(candidate: Candidate, feeds: Sequence[Feed], replan: Replan, what: str) -> Candidate | None:
    """The candidate with a product per channel at each border that needs one; None where none does."""
    borders = find_borders(candidate)
    if not borders:
        return None
    peaks = _peaks(candidate.graph, borders, feeds, what)
    factors = {
        border.layer: factor
        for border in borders
        if (factor := _factors(peaks[border.tensor], candidate.graph.array(border.weight))) is not None
    }
    if not factors:
        return None
    chosen = [border for border in borders if border.layer in factors]
    model = scaled(candidate.graph, chosen, factors)
    graph = Graph(model)
    plan = replan(graph)
    names = [graph.node(border.layer).input[0] for border in chosen]
    session = open_session(with_outputs(model, names, only=True), what, threads=1)
    histograms = all(candidate.tensors[border.tensor].histogram is not None for border in chosen)
    fresh = dict.fromkeys(names, TensorStats.empty(histograms=histograms))
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed, what, names), strict=True):
            fresh[name] = fresh[name].seeing(value)
    means = {
        name: candidate.means[border.tensor] * factors[border.layer]
        for name, border in zip(names, chosen, strict=True)
        if border.tensor in candidate.means
    }
    return replace(
        candidate,
        graph=graph,
        plan=plan,
        tensors=dict(candidate.tensors) | fresh,
        means=dict(candidate.means) | means,
    )


def find_borders(candidate: Candidate) -> list[Border]:
    """Inputs of int8 layers that inner float layers make, and that such a product can scale."""
    graph = candidate.graph
    int8 = {member for unit in candidate.plan.units for member in unit.members}
    found = []
    for unit in candidate.plan.units:
        border = _border(graph, unit)
        known = border is not None and border.tensor in candidate.plan.group_of
        if border is not None and known and _made_in_float(graph, border.tensor, int8):
            found.append(border)
    return found


def _made_in_float(graph: Graph, tensor: str, int8: Collection[str]) -> bool:
    """Whether no int8 layer and no network input stands behind it but for layers that a scale passes through.

    Behind those, equalization gives the int8 layer itself the scale, at no cost.
    """
    pending = [tensor]
    while pending:
        maker = graph.producer.get(pending.pop())
        if maker is None or maker.name in int8:
            return False
        if maker.op_type in _PASSING:
            data = maker.input if maker.op_type == "Concat" else maker.input[:1]
            pending.extend(name for name in data if name and not graph.is_constant(name))
    return True


def _border(graph: Graph, unit: Unit) -> Border | None:
    if unit.weight is None or unit.weight.slot != 1 or len(graph.uses[unit.weight.tensor]) != 1:
        return None
    node = graph.node(unit.name)
    if node.op_type == "Conv":
        fits = int(attribute(node, "group", 1)) == 1
    else:
        fits = node.op_type == "Gemm" and attribute(node, "transB", 0) == 1 and attribute(node, "transA", 0) == 0
    return Border(unit.name, unit.data[0].tensor, unit.weight.tensor) if fits else None


def _peaks(graph: Graph, borders: Sequence[Border], feeds: Sequence[Feed], what: str) -> dict[str, FloatArray]:
    """Largest magnitude per channel."""
    names = list(dict.fromkeys(border.tensor for border in borders))
    session = open_session(with_outputs(graph.model, names, only=True), what, threads=1)
    peaks: dict[str, FloatArray] = {}
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed, what, names), strict=True):
            found = np.abs(np.moveaxis(value, 1, 0)).reshape(value.shape[1], -1).max(axis=1).astype(np.float64)
            peaks[name] = np.maximum(peaks.get(name, 0.0), found)
    return peaks


def _factors(peak: FloatArray, weight: NDArray[Any]) -> FloatArray | None:
    """Powers of two, 1 for the largest channels; None where channels are alike enough."""
    top = float(peak.max(initial=0.0))
    if top <= 0 or float(np.median(peak)) >= UNLIKE * top:
        return None
    column = np.abs(np.moveaxis(weight.astype(np.float64), 1, 0)).reshape(weight.shape[1], -1).max(axis=1)
    alive = (peak > 0) & (column > 0)
    if not alive.any():  # nothing that is live is read
        return None
    wanted = np.ones_like(peak)
    wanted[alive] = column[alive] ** (1 - ALPHA) / peak[alive] ** ALPHA
    # The tensor's range stays: what is largest after scaling is as large as before.
    wanted *= top / float((peak * wanted)[alive].max())
    exponents = np.clip(np.rint(np.log2(wanted)), -_MOST_DOUBLINGS, _MOST_DOUBLINGS)
    factor = np.where(alive, np.exp2(exponents), 1.0)
    return factor if (factor != 1).any() else None


def scaled(graph: Graph, borders: Sequence[Border], factors: Mapping[str, FloatArray]) -> ModelProto:
    """A copy of the network with the products in it.

    Args:
        graph: the network.
        borders: where.
        factors: int8 layer → factor per channel.
    """
    model = ModelProto()
    model.CopyFrom(graph.model)
    nodes = {node.name: node for node in model.graph.node}
    products: dict[str, onnx.NodeProto] = {}
    for border in borders:
        weight = graph.array(border.weight)
        name, constant = graph.free_name(f"{border.layer}/scaled"), graph.free_name(f"{border.layer}/channel_scale")
        factor = factors[border.layer].reshape(1, -1, *(1,) * (weight.ndim - 2))
        set_initializer(model, constant, factor.astype(np.float32))
        set_initializer(model, border.weight, (weight / factor).astype(np.float32))
        products[border.layer] = onnx.helper.make_node("Mul", [border.tensor, constant], [name], name=name)
        mark_float(products[border.layer], REASON)
        nodes[border.layer].input[0] = name
        known = graph.value_info(border.tensor)
        if known is not None:
            value = model.graph.value_info.add()
            value.CopyFrom(known)
            value.name = name
    both = ((products.get(node.name), node) for node in model.graph.node)
    replace_nodes(model, [node for pair in both for node in pair if node is not None])
    return model
