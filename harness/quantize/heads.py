"""Last layers whose channels mean different things: boxes beside scores, on one scale.

A layer's int8 result has one scale for all channels. Where a detector's last convolution makes coordinates in
pixels beside scores between 0 and 1, the scores would keep a handful of levels. The rule is measured, not a list
of names: the channel with the smallest range would span fewer than `LEAST_LEVELS` steps of the common scale, while
another spans 32 times as many.
Where weights have a scale per channel such a layer still multiplies integers, and returns float; where they have
one for all of them, the same channels are lost in the weights already, and the layer stays float.

Channels that are compared with each other afterwards (a softmax or an average over them, arg max) are no case for
it: what is small there loses anyway. Nor are results that a fused ReLU or Clip bounds: a channel that
hardly fires is not a quantity of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.graph import Graph
from harness.quantize.islands import read_by, readers_of
from harness.quantize.placement import Plan
from harness.quantize.rulebooks.rules import MOVERS, Kind
from harness.quantize.runtime import open_session, run_session, with_outputs
from harness.quantize.units import Unit

#: Steps of the common scale that a channel's values have to span: below three bits a score is a coin toss.
LEAST_LEVELS = 8
#: And fewer of them than another channel by this factor: 256 levels against LEAST_LEVELS.
_DIFFERENT = 256 / LEAST_LEVELS
#: Samples looked at: ranges that differ 32-fold show in a few.
_SAMPLES = 16
#: Operators that hold channels against each other.
_COMPARING = frozenset(
    {"Softmax", "LogSoftmax", "ArgMax", "TopK", "GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum", "Resize"}
)


@dataclass(frozen=True, slots=True)
class MixedHead:
    """A last layer whose channels have very different ranges.

    Args:
        layer: its name.
        widest: the largest range of a channel.
        narrowest: the smallest that is not constant.
        levels: how many steps of the common scale the narrowest would have.
    """

    layer: str
    widest: float
    narrowest: float
    levels: float

    def reason(self, *, returns_float: bool) -> str:
        """One line for the reader."""
        ending = "it multiplies integers and returns float" if returns_float else "it stays float"
        return (
            f"joins channels of very different ranges ({self.narrowest:.3g} beside {self.widest:.3g}): "
            f"on one int8 scale the smallest would have {self.levels:.0f} levels, so {ending}"
        )


def mixed_heads(graph: Graph, plan: Plan, samples: Sequence[Batch], what: str) -> dict[str, str]:
    """The last int8 layers whose channels do not fit one scale, each with the reason in a reader's words.

    Args:
        graph: the prepared float network.
        plan: what is quantized.
        samples: a few inputs.
        what: how to call the network in an error.
    """
    candidates = {unit.output: unit for unit in _last_layers(graph, plan)}
    if not candidates or not samples:
        return {}
    names = list(candidates)
    session = open_session(with_outputs(graph.model, names, only=True), what)
    lows: dict[str, NDArray[np.float32]] = {}
    highs: dict[str, NDArray[np.float32]] = {}
    seen = 0
    for inputs, count in passes(samples, input_specs(graph), what):
        for name, value in zip(names, run_session(session, inputs, what, names), strict=True):
            axis = channel_axis(candidates[name], value.ndim)
            others = tuple(index for index in range(value.ndim) if index != axis)
            low, high = value.min(axis=others), value.max(axis=others)
            lows[name] = np.minimum(lows.get(name, low), low)
            highs[name] = np.maximum(highs.get(name, high), high)
        seen += count
        if seen >= _SAMPLES:
            break
    found = (_mixed(candidates[name], lows[name], highs[name]) for name in names)
    per_channel = plan.rules.weight.per_channel
    return {head.layer: head.reason(returns_float=per_channel) for head in found if head is not None}


def channel_axis(unit: Unit, rank: int) -> int:
    """Axis of a layer's result that counts its output channels."""
    return 1 if unit.op_type in {"Conv", "ConvTranspose"} else rank - 1


def _mixed(unit: Unit, low: NDArray[np.float32], high: NDArray[np.float32]) -> MixedHead | None:
    spread = high > low  # before the difference: infinity minus infinity is no span
    spans = (high[spread] - low[spread]).astype(np.float64)
    step = (max(float(high.max()), 0.0) - min(float(low.min()), 0.0)) / 255
    if spans.size < 2 or not np.isfinite(step) or spans.min() >= LEAST_LEVELS * step:
        return None
    if spans.max() < _DIFFERENT * spans.min():
        return None  # all of them vary little around an offset: they are alike
    return MixedHead(unit.name, float(spans.max()), float(spans.min()), float(spans.min()) / step)


def _last_layers(graph: Graph, plan: Plan) -> list[Unit]:
    readers = readers_of(plan.units)
    return [
        unit
        for unit in plan.units
        if unit.kind is Kind.WEIGHTED
        and unit.bounds == (None, None)
        and unit.output in plan.group_of
        and not read_by(graph, unit, readers)
        and not _compared(graph, unit)
    ]


def _compared(graph: Graph, unit: Unit) -> bool:
    """Whether something that holds channels against each other reads the result, perhaps after moving it."""
    pending = list(unit.outputs)
    while pending:
        for use in graph.uses[pending.pop()]:
            if use.node.op_type in _COMPARING:
                return True
            if use.node.op_type in MOVERS:
                pending.extend(use.node.output)
    return False
