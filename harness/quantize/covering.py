"""Ranges of tensors that a calibration of the needed ones did not observe: excluded layers leave others on their own.

A calibration of the needed tensors observes one range for tensors that share a scale (what a concatenation or a
pooling joins) and none inside a fused layer. When the joining layer, one behind it, or the activation function of a
fused layer becomes float, those tensors are quantized one by one. A calibration with layers="all" has their own ranges.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.graph import Graph
from harness.quantize.observe import TensorStats
from harness.quantize.placement import Plan, make_plan
from harness.quantize.rulebooks.rules import RuleBook
from harness.quantize.runtime import open_session, run_session, with_outputs


def covering(calibration: Calibration, graph: Graph, rules: RuleBook) -> Calibration:
    """The calibration with the joint range, which holds theirs, for tensors that share a scale in the whole network.

    Args:
        calibration: of the network.
        graph: the network, prepared.
        rules: of the environment.
    """
    plan = make_plan(graph, rules)
    added: dict[str, TensorStats] = {}
    for tensor, group in plan.group_of.items():
        if tensor in calibration.tensors:
            continue
        seen = [calibration.tensors[name] for name in plan.observed.get(group, ()) if name in calibration.tensors]
        if seen:
            added[tensor] = reduce(TensorStats.merged, seen)
    return _with(calibration, added)


def from_remembered(
    calibration: Calibration, graph: Graph, plan: Plan, what: str
) -> tuple[Calibration, tuple[str, ...]]:
    """The calibration with ranges of the tensors that a plan still lacks, from the samples that it remembered.

    Args:
        calibration: of the network.
        graph: the network, prepared.
        plan: what is quantized.
        what: how to call the network in an error.

    Returns:
        the calibration, and the tensors that were added; none where it remembers no samples.

    Raises:
        UserError: such a tensor holds NaN or infinity.
    """
    wanted = (name for names in plan.observed.values() for name in names)
    missing = [name for name in dict.fromkeys(wanted) if name not in calibration.tensors]
    if not missing or not calibration.kept:
        return calibration, ()
    found = dict.fromkeys(missing, TensorStats.empty(histograms=calibration.has_histograms))
    made = [name for name in missing if name in graph.producer]
    session = open_session(with_outputs(graph.model, made, only=True), what, threads=1) if made else None
    for feed in calibration.kept:
        values = {name: np.asarray(feed[name]) for name in missing if name not in graph.producer}
        if session is not None:
            values |= zip(made, run_session(session, feed, what, made), strict=True)
        for name, value in values.items():
            found[name] = found[name].seeing(value)
    for name, stats in found.items():
        if stats.count and not np.isfinite([stats.low, stats.high]).all():
            maker = graph.producer[name].name if name in graph.producer else name
            msg = f"{what}: layer {maker!r} holds NaN or infinity; check the network"
            raise UserError(msg)
    return _with(calibration, found), tuple(missing)


def _with(calibration: Calibration, added: dict[str, TensorStats]) -> Calibration:
    return replace(calibration, tensors={**calibration.tensors, **added}) if added else calibration
