"""Mixed precision: the fewest layers left in float with which a network meets a target, verified by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Unpack

import pandas as pd

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.goal import Goal
from harness.quantize.journal import Journal
from harness.quantize.layer_latency import Costs, Latency
from harness.quantize.mixed_search import Search, Step
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.rulebooks import rule_book
from harness.quantize.sensitivity import SWEEP_STEPS, LayerCost, Progress, journal_key, rank
from harness.quantize.variants import Asked, Variants, recipe_of

#: Layers that a one-line note names; `float_layers` has them all.
_NAMED = 6


@dataclass(frozen=True)
class MixedPrecision:
    """The network found, and how.

    Args:
        quantized: it, measured again as it lies on the disk; `note` is the last of its notes.
        float_layers: chosen to stay float, most sensitive first; what `exclude` named is not among them.
        path: every network tried, in order.
        goal: what was asked.
        achieved: the written network's figure of the goal's kind.
        met: whether the written network meets the goal on the held-back samples.
        samples: how many samples that rests on.
        ranking: what each layer costs; empty where the all-int8 network meets the goal.
        latency_ms: cost of leaving a layer in float, of the layers whose order it decided.
        note: the result in one line.
    """

    quantized: QuantizedModel
    float_layers: tuple[str, ...]
    path: tuple[Step, ...]
    goal: Goal
    achieved: float
    met: bool
    samples: int
    ranking: tuple[LayerCost, ...]
    latency_ms: Mapping[str, float]
    note: str

    def table(self) -> pd.DataFrame:
        """The path: columns FloatLayers (their number), Layers, the goal's kind, sqnr_db, Met."""
        rows = [(len(s.layers), "+".join(s.layers), s.figure, s.sqnr_db, s.met) for s in self.path]
        columns = ["FloatLayers", "Layers", str(self.goal.kind), "sqnr_db", "Met"]
        table = pd.DataFrame(rows, columns=columns)
        return table.loc[:, ~table.columns.duplicated()]


def mixed_precision(
    model: Path,
    calibration: Calibration,
    *,
    goal: Goal,
    out: Path,
    latency: Latency | None = None,
    most_float: int | None = None,
    processes: int = 1,
    resume: Path | None = None,
    progress: Progress | None = None,
    **asked: Unpack[Asked],
) -> MixedPrecision:
    """Write the network with the fewest layers in float that meets a goal.

    The layers are ranked by `sensitivity`; the shortest head of that list with which the network meets the goal is
    found by doubling and bisection; then each layer of it, the least sensitive first, is tried in int8 again. The same
    is done with the layers ranked by what each costs alone, where that gives a smaller set. Every network on the way
    is made by `quantize`, recovery included, and run on the held-back samples. The result is the smallest set that this
    finds; trying all sets would take 2^layers networks. The same input gives the same result.

    Args:
        model: the float network.
        calibration: of it.
        goal: what to reach.
        out: the network; written in any case, with the best that was achieved when the goal was not.
        latency: decides between layers whose gains are equal within the samples' noise: the cheaper one stays float.
            Asked only for those whose order matters.
        most_float: leave no more layers in float than this.
        processes, resume, progress: of `sensitivity`.
        asked: what decides the networks, see `Asked`; where it names no steps of recovery, those of the rule book. The
            ranking uses `SWEEP_STEPS` of them, which are quick.

    Raises:
        UserError: a bad argument, samples that cannot give the figure, or `quantize` refuses.
    """
    if most_float is not None and most_float < 0:
        msg = f"most_float={most_float}: give 0 or more"
        raise UserError(msg)
    if processes < 1:
        msg = f"processes={processes}: give 1 or more"
        raise UserError(msg)
    if asked.get("recover") is None:
        asked["recover"] = rule_book(asked.get("environment", "cpu")).recovery
    recipe = recipe_of(model, calibration, **asked)
    quick = replace(recipe, recover=tuple(step for step in recipe.recover if step in SWEEP_STEPS))
    with Variants(recipe) as variants, Variants(quick) as sweep:
        search = Search(variants, goal)
        ranking: list[LayerCost] = []
        costs = Costs(sweep, latency)
        chosen: tuple[str, ...] = ()
        if not search.met(()):
            journal = None if resume is None else Journal(resume, journal_key(quick))
            ranking = rank(sweep, processes, journal, progress)
            most = len(ranking) if most_float is None else min(most_float, len(ranking))
            chosen = search.smallest(ranking, costs, most)
        written = variants.write(chosen, out)
        # The file that was written is what the promise is about, not the one tried on the way.
        score = variants.measure(written)
        achieved = goal.figure(score, variants.yardstick.float_score)
        met = goal.met(achieved)
        whose = "held-back" if asked.get("held_back") else "calibration"
        samples = f"{variants.yardstick.samples} {whose} samples"
        nothing = chosen and not written.quantized_layers
        note = _note(goal, achieved, chosen, 0 if nothing else len(variants.units), samples)
        return MixedPrecision(
            replace(written, notes=(*written.notes, note)),
            chosen,
            tuple(search.path),
            goal,
            achieved,
            met,
            variants.yardstick.samples,
            tuple(ranking),
            {layer: cost for layer, cost in costs.known.items() if isfinite(cost)},
            note,
        )


def _note(goal: Goal, achieved: float, chosen: Sequence[str], layers: int, samples: str) -> str:
    reached = f"{goal.text(achieved)} on {samples}, {goal.text(goal.value)} asked"
    if not goal.met(achieved):
        return f"target missed: best {reached}, with {len(chosen)} of {layers or len(chosen)} layers float"
    if not chosen:
        return f"target met with every layer int8: {reached}"
    if not layers:
        return f"target met only with no layer int8: {reached}"
    named = ", ".join(chosen[:_NAMED]) + (f" and {len(chosen) - _NAMED} more" if len(chosen) > _NAMED else "")
    return f"target met with {len(chosen)} of {layers} layers float ({named}): {reached}"
