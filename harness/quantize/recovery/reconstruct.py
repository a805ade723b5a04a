"""Layer by layer through the network: weights and bias that give the float output from the int8 input.

At each layer the input is what the int8 layers before it really make, and the wanted output is the float network's on
the same samples. So a layer makes up not only for its own rounding but for the errors that reach it; for the bias alone
this is sequential bias correction (Nagel et al., 'A white paper on neural network quantization', 2021, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.quantize.correction import takes_bias
from harness.quantize.graph import Graph
from harness.quantize.overrides import Overrides
from harness.quantize.placement import Plan
from harness.quantize.recovery.effort import MOST_INPUTS, MOST_WEIGHTS
from harness.quantize.recovery.moments import Matrices, Moments, matrices, moments
from harness.quantize.recovery.solve import Aim, Layer, solve
from harness.quantize.recovery.stepper import Feed, Stepper
from harness.quantize.rewrite import build
from harness.quantize.scales import Affine
from harness.quantize.shift_limits import layer_shifts
from harness.quantize.units import Unit
from harness.quantize.weights import LayerParameters, QuantizedTensor, real_bias

#: Of the positions that a layer is judged at: the same data give the same int8 network.
_SEED = 0


def reconstructed(
    graph: Graph,
    plan: Plan,
    scales: Mapping[str, Affine],
    parameters: Mapping[str, LayerParameters],
    feeds: Sequence[Feed],
    aim: Aim,
    *,
    overrides: Overrides,
    what: str,
    progress: Callable[[str], None] | None = None,
) -> dict[str, LayerParameters]:
    """Better parameters for each layer than the given ones.

    Layers that share their weights, and those that are no sum of products (transposed convolutions), keep theirs.

    Args:
        graph: the prepared float network.
        plan: what is quantized.
        scales: scale group → scale and zero point.
        parameters: layer → weights and bias so far.
        feeds: samples, one feed per pass.
        aim: what may change.
        overrides: what differs for single layers.
        what: how to call the network in an error.
        progress: called with each layer's name.
    """
    simulated = Graph(build(graph.model, plan, scales, {}))
    place = {node.name: index for index, node in enumerate(simulated.nodes)}
    layers = sorted((unit for unit in plan.units if unit.name in parameters), key=lambda unit: place[unit.name])
    target = Stepper(graph, feeds, [graph.node(unit.name).output[0] for unit in layers], what)
    actual = Stepper(simulated, feeds, (), what)
    random = np.random.default_rng(_SEED)
    result = dict(parameters)
    for unit in layers:
        if progress is not None:
            progress(unit.name)
        made = graph.node(unit.name).output[0]
        target.after(unit.name)
        actual.before(unit.name)
        layer = _layer(graph, plan, unit, scales, parameters[unit.name], overrides)
        if layer is not None:
            many = layer.weights.values.shape[2] > MOST_INPUTS
            seen = _seen(graph, unit, layer.weights, target, actual, random, means_only=many)
            if seen is not None:
                result[unit.name] = solve(layer, seen, Aim.BIAS if many else aim)
        target.forget(made)
        _give(actual, graph, unit, result[unit.name])
    return result


def _layer(
    graph: Graph,
    plan: Plan,
    unit: Unit,
    scales: Mapping[str, Affine],
    nearest: LayerParameters,
    overrides: Overrides,
) -> Layer | None:
    if unit.weight is None or math.prod(graph.initializers[unit.weight.tensor].dims) > MOST_WEIGHTS:
        return None
    weights = matrices(graph, unit)
    if weights is None or len(graph.uses[unit.weight.tensor]) > 1:
        return None
    group = plan.group_of.get(unit.data[0].tensor)
    return Layer(
        weights,
        real_bias(graph, unit),
        takes_bias(graph, unit),
        nearest,
        overrides.rules_of(unit, plan.rules),
        float(scales[group].scale) if group is not None else None,
        layer_shifts(plan, unit, scales),
    )


def _seen(
    graph: Graph,
    unit: Unit,
    weights: Matrices,
    target: Stepper,
    actual: Stepper,
    random: np.random.Generator,
    *,
    means_only: bool,
) -> Moments | None:
    node = graph.node(unit.name)
    # A matrix product's bias is added by the next node; what the layer should make includes it.
    after = real_bias(graph, unit) if unit.bias is not None and unit.bias.node != unit.name else None
    total: Moments | None = None
    inputs = actual.input_values(unit.name, 0)
    for given, made in zip(inputs, target.values(node.output[0]), strict=True):
        wanted = made if after is None else made + after.astype(np.float32)
        seen = moments(node, weights, given, wanted, random, passes=len(inputs), means_only=means_only)
        if seen is None or not np.isfinite(seen.xx).all() or not np.isfinite(seen.xy).all():
            return None
        total = seen if total is None else total + seen
    return total


def _give(actual: Stepper, graph: Graph, unit: Unit, found: LayerParameters) -> None:
    """Have the int8 network go on with what was found."""
    assert unit.weight is not None
    actual.give(unit.weight.node, unit.weight.slot, found.weight.dequantized().astype(np.float32))
    if found.bias is None:
        return
    bias = found.bias.dequantized() if isinstance(found.bias, QuantizedTensor) else found.bias
    node, slot = (unit.bias.node, unit.bias.slot) if unit.bias is not None else (unit.name, 2)
    shape = graph.array(unit.bias.tensor).shape if unit.bias is not None else bias.shape
    actual.give(node, slot, bias.astype(np.float32).reshape(shape))
