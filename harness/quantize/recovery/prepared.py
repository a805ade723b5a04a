"""Equalization as a step of preparing a network: from its weights alone, without changing one bit of its output."""

from __future__ import annotations

from onnx import ModelProto

from harness.quantize.graph import Graph
from harness.quantize.recovery.equalization import balanced, equalized, find_links


def with_balanced_weights(model: ModelProto) -> ModelProto:
    """The network after cross-layer equalization by powers of two; the given one where nothing is to be gained."""
    graph = Graph(model)
    links = find_links(graph)
    scalings = balanced(graph, links)
    return equalized(graph, links, scalings) if scalings else model
