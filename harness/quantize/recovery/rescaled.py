"""Candidates whose activations were reshaped without changing the network's function: what is known of them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from harness.quantize.candidate import Candidate
from harness.quantize.graph import Graph
from harness.quantize.observe import TensorStats
from harness.quantize.placement import Plan
from harness.quantize.recovery.absorption import absorbable, absorbed
from harness.quantize.recovery.equalization import FloatArray, Link, equalized, filled, find_links
from harness.quantize.recovery.stepper import Feed
from harness.quantize.rescaling import Rescaling, Rescalings, added
from harness.quantize.runtime import open_session, run_session, with_outputs

Replan = Callable[[Graph], Plan]


def with_filled_channels(candidate: Candidate, feeds: Sequence[Feed], replan: Replan, what: str) -> Candidate | None:
    """The candidate after equalization; None where no tensor can be scaled."""
    links = _quantized_links(candidate)
    if not links:
        return None
    peaks = _extremes(candidate.graph, links, feeds, what)[1]
    rules = candidate.plan.rules
    scalings = filled(links, peaks, power_of_two=rules.activation.power_of_two)
    if not scalings:
        return None
    means = {
        link.tensor: candidate.means[link.tensor] * scalings[link.maker].factor
        for link in links
        if link.maker in scalings and link.tensor in candidate.means
    }
    touched = [link for link in links if link.maker in scalings]
    known = {link.maker: _known(candidate, link, scalings[link.maker].factor.size) for link in touched}
    rescaled = added(
        candidate.rescaled,
        ((_tensors(candidate.graph, link), known[link.maker].scaled(scalings[link.maker].factor)) for link in touched),
    )
    model = equalized(candidate.graph, links, scalings)
    return _anew(candidate, model, touched, means, rescaled, feeds, replan, what)


def with_absorbed_bias(candidate: Candidate, feeds: Sequence[Feed], replan: Replan, what: str) -> Candidate | None:
    """The candidate after high-bias absorption; None where every channel reaches zero."""
    links = _quantized_links(candidate)
    if not links:
        return None
    amounts = absorbable(candidate.graph, links, _extremes(candidate.graph, links, feeds, what)[0])
    if not amounts:
        return None
    means = {
        link.tensor: candidate.means[link.tensor] - amounts[link.maker]
        for link in links
        if link.maker in amounts and link.tensor in candidate.means
    }
    touched = [link for link in links if link.maker in amounts]
    known = {link.maker: _known(candidate, link, amounts[link.maker].size) for link in touched}
    rescaled = added(
        candidate.rescaled,
        ((_tensors(candidate.graph, link), known[link.maker].lowered(amounts[link.maker])) for link in touched),
    )
    model = absorbed(candidate.graph, links, amounts)
    return _anew(candidate, model, touched, means, rescaled, feeds, replan, what)


def _known(candidate: Candidate, link: Link, channels: int) -> Rescaling:
    """What has become of a link's tensors so far."""
    return candidate.rescaled.get(link.tensor) or Rescaling.none(channels)


def _quantized_links(candidate: Candidate) -> list[Link]:
    int8 = {member for unit in candidate.plan.units for member in unit.members}
    return [
        link
        for link in find_links(candidate.graph)
        if link.maker in int8 and all(reader in int8 for reader in link.readers)
        if link.tensor in candidate.plan.group_of
    ]


def _extremes(
    graph: Graph, links: Sequence[Link], feeds: Sequence[Feed], what: str
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """(smallest value, largest magnitude) per channel of each link's tensor."""
    names = [link.tensor for link in links]
    session = open_session(with_outputs(graph.model, names, only=True), what, threads=1)
    low: dict[str, FloatArray] = {}
    peak: dict[str, FloatArray] = {}
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed, what, names), strict=True):
            channels = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            smallest, largest = channels.min(axis=1).astype(np.float64), channels.max(axis=1).astype(np.float64)
            low[name] = np.minimum(low.get(name, smallest), smallest)
            peak[name] = np.maximum(peak.get(name, 0.0), np.maximum(largest, -smallest))
    return low, peak


def _anew(
    candidate: Candidate,
    model: ModelProto,
    links: Sequence[Link],
    means: Mapping[str, FloatArray],
    rescaled: Rescalings,
    feeds: Sequence[Feed],
    replan: Replan,
    what: str,
) -> Candidate:
    """The candidate of a changed network: ranges of the tensors that changed are observed again."""
    graph = Graph(model)
    plan = replan(graph)
    changed = {name for link in links for name in _tensors(graph, link)}
    names = [name for name in plan.observed_tensors() if name in changed]
    session = open_session(with_outputs(model, names, only=True), what, threads=1)
    tensors = dict(candidate.tensors)
    histograms = all(candidate.tensors[name].histogram is not None for name in names if name in candidate.tensors)
    fresh = dict.fromkeys(names, TensorStats.empty(histograms=histograms))
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed, what, names), strict=True):
            fresh[name] = fresh[name].seeing(value)
    return replace(
        candidate,
        graph=graph,
        plan=plan,
        tensors=tensors | fresh,
        means=dict(candidate.means) | dict(means),
        rescaled=rescaled,
    )


def _tensors(graph: Graph, link: Link) -> list[str]:
    """Every tensor from the maker to the readers."""
    return [graph.node(name).output[0] for name in (link.maker, *link.bends)]
