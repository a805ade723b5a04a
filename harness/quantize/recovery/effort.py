"""How much work recovery is on a network, before any of it is done."""

from __future__ import annotations

import math

from harness.quantize.graph import Graph
from harness.quantize.placement import Plan

#: Layers with more inputs per output get their bias corrected only: their second moments take K² numbers, K³ steps.
MOST_INPUTS = 4608
#: Layers with more weights keep their parameters: the float64 matrices of one would outweigh the network.
MOST_WEIGHTS = 1 << 26
#: About three minutes of one core (10⁹ steps a second were measured); BERT-base takes 1.3e11, ResNet-50 6e10.
MOST_STEPS = 200e9


def rounding_steps(graph: Graph, plan: Plan) -> float:
    """Multiply-accumulates of rounding each layer: O·K² for its O outputs of K inputs each, and K³ for the inverse."""
    total = 0.0
    for unit in plan.units:
        shape = graph.shape(unit.weight.tensor) if unit.weight is not None else None
        if shape is None or unit.channel_axis is None or None in shape:
            continue
        sizes = [size or 1 for size in shape]
        outputs = sizes.pop(unit.channel_axis)
        inputs = math.prod(sizes)
        if inputs <= MOST_INPUTS:
            total += float(inputs) ** 2 * (outputs + inputs)
    return total
