"""What each layer costs: the network with only this layer float, and with only this layer int8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import onnxruntime
import pandas as pd

from harness._version import __version__
from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.fidelity import Runner, Score, gain_error_db
from harness.quantize.journal import Journal, fingerprint
from harness.quantize.variants import Asked, Recipe, Variants, recipe_of
from harness.quantize.workers import work_off

#: Told of a finished layer: (how many are done, of how many, its name).
Progress = Callable[[int, int, str], None]

COLUMNS = (
    "Layer",
    "Type",
    "gain_db",
    "gain_error_db",
    "alone_db",
    "agreement_gain",
    "alone_agreement",
    "gain_points",
    "alone_loss_points",
    "Fused",
    "Also float",
    "Note",
)

#: Recovery in a sweep: the one step that costs no more than the network itself. The others take the greater part of a
#: minute of a core for each network, and mend the same layers in every one of them.
SWEEP_STEPS = ("bias-correction",)

#: What the journal's lines mean; raise it when they change.
_JOURNAL_VERSION = 1


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    Args:
        layer: its name, that of its operator node.
        op_type: its operator.
        fused: the nodes that belong to it.
        gain_db: SQNR with only this layer float, less that of the all-int8 network.
        gain_error_db: standard error of that over the choice of samples; None where it cannot be told.
        alone_db: SQNR with only this layer int8; None where the rules do not let it be int8 alone.
        agreement_gain: as `gain_db`, of the top-1 agreement with the float network (a share).
        alone_agreement: top-1 agreement with only this layer int8.
        gain_points: as `gain_db`, of the metric, in points (hundredths); labelled data only.
        alone_loss_points: what the metric loses with only this layer int8, points; labelled data only.
        also_float: other layers that become float with it (they have no int8 form without it).
        note: why a figure is missing.
    """

    layer: str
    op_type: str
    fused: tuple[str, ...]
    gain_db: float
    gain_error_db: float | None
    alone_db: float | None
    agreement_gain: float | None
    alone_agreement: float | None
    gain_points: float | None
    alone_loss_points: float | None
    also_float: tuple[str, ...]
    note: str


def sensitivity(
    model: Path,
    calibration: Calibration,
    *,
    processes: int = 1,
    resume: Path | None = None,
    progress: Progress | None = None,
    runner: Runner | None = None,
    **asked: Unpack[Asked],
) -> pd.DataFrame:
    """Rank the int8 layers of a network by what each costs, worst first.

    Each row rests on two networks that are really made by `quantize` and run. Layers that only move values are left
    out: they lose nothing.

    Args:
        model: the float network.
        calibration: of it; one of the needed tensors does (see `covering`).
        processes: how many work at it, each a child `python -m` of its own (no `__main__` guard needed). The figures
            do not depend on it.
        resume: a journal; every finished layer is added at once, and layers it holds for the same network,
            calibration, samples, environment and method are not measured again.
        progress: told of every finished layer, those of the journal included.
        runner: where the networks run instead of this process; not with several processes.
        asked: what decides the networks, see `Asked`; where it names no steps of recovery, the quick one (all of them
            take minutes instead of seconds).

    Returns:
        one row a layer (columns `COLUMNS`, see `LayerCost`), worst first: by `gain_db`, then `alone_db`. `attrs` holds
        int8_db, int8_agreement, samples, method and environment.

    Raises:
        UserError: a bad argument, or `quantize` refuses.
    """
    if processes < 1:
        msg = f"processes={processes}: give 1 or more"
        raise UserError(msg)
    if processes > 1 and runner is not None:
        msg = "several processes and a runner of networks exclude each other; use processes=1"
        raise UserError(msg)
    if asked.get("recover") is None:
        asked["recover"] = SWEEP_STEPS
    recipe = recipe_of(model, calibration, **asked)
    with Variants(recipe, runner) as variants:
        journal = None if resume is None else Journal(resume, journal_key(recipe, runner))
        return to_table(rank(variants, processes, journal, progress), variants)


def rank(
    variants: Variants, processes: int = 1, journal: Journal | None = None, progress: Progress | None = None
) -> list[LayerCost]:
    """`sensitivity` of variants that exist already; they keep the all-int8 network's score."""
    if not variants.units:
        return []
    made, all_int8 = variants.score(())
    # Beside the rules, measured ones may keep a layer float.
    stay = {name for name, _ in made.kept_float}
    names = [unit.name for unit in variants.units if unit.name not in stay]
    found: dict[str, Mapping[str, Any]] = {}
    if journal is not None:
        found = {name: journal.done[name] for name in names if name in journal.done}

    def tell(name: str) -> None:
        if progress is not None:
            progress(len(found), len(names), name)

    for name in list(found):
        tell(name)
    missing = [name for name in names if name not in found]
    with closing(_measured(variants, missing, processes)) as results:
        for name, result in results:
            if journal is not None:
                journal.add(name, result)
            found[name] = result
            tell(name)
    costs = [_cost(variants, name, found[name], all_int8) for name in names]
    order = {name: index for index, name in enumerate(names)}
    return sorted(costs, key=lambda cost: (-cost.gain_db, _or(cost.alone_db, float("inf")), order[cost.layer]))


def _measured(
    variants: Variants, names: Sequence[str], processes: int
) -> Generator[tuple[str, Mapping[str, Any]], None, None]:
    if processes > 1 and len(names) > 1:
        yield from work_off("harness.quantize.sensitivity_worker", variants.recipe, names, processes)
        return
    for name in names:
        yield name, measure_layer(variants, name)


def measure_layer(variants: Variants, layer: str) -> dict[str, Any]:
    """Make and run both networks of a layer; the result is plain JSON."""
    without, score = variants.score([layer])
    alone, alone_score = variants.score([unit.name for unit in variants.units if unit.name != layer])
    reasons = dict(alone.kept_float)
    return {
        "float": score.as_json(),
        "kept_float": [name for name, _ in without.kept_float],
        "alone": None if layer in reasons else alone_score.as_json(),
        "why_not_alone": reasons.get(layer, ""),
    }


def _cost(variants: Variants, name: str, result: Mapping[str, Any], all_int8: Score) -> LayerCost:
    unit = next(unit for unit in variants.units if unit.name == name)
    score = Score.from_json(result["float"])
    alone = None if result["alone"] is None else Score.from_json(result["alone"])
    before = {layer for layer, _ in variants.score(())[0].kept_float}
    also = tuple(layer for layer in result["kept_float"] if layer not in before and layer not in unit.members)
    reference = variants.yardstick.float_score.accuracy
    return LayerCost(
        name,
        unit.op_type,
        unit.members,
        score.sqnr_db - all_int8.sqnr_db if score.sqnr_db != all_int8.sqnr_db else 0.0,
        gain_error_db(score, all_int8),
        None if alone is None else alone.sqnr_db,
        _less(score.agreement, all_int8.agreement),
        None if alone is None else alone.agreement,
        _points(_less(score.accuracy, all_int8.accuracy)),
        _points(_less(reference, None if alone is None else alone.accuracy)),
        also,
        f"not int8 alone: {result['why_not_alone']}" if alone is None else "",
    )


def to_table(costs: Sequence[LayerCost], variants: Variants) -> pd.DataFrame:
    """The published form of a ranking."""
    rows = [
        (
            cost.layer,
            cost.op_type,
            cost.gain_db,
            cost.gain_error_db,
            cost.alone_db,
            cost.agreement_gain,
            cost.alone_agreement,
            cost.gain_points,
            cost.alone_loss_points,
            "+".join(cost.fused),
            "+".join(cost.also_float),
            cost.note,
        )
        for cost in costs
    ]
    numbers = dict.fromkeys([name for name in COLUMNS if name.endswith(("_db", "_points")) or "agree" in name], float)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(numbers)
    recipe = variants.recipe
    table.attrs = {"environment": recipe.environment, "method": recipe.method}
    if costs:
        score = variants.score(())[1]
        table.attrs |= {
            "int8_db": score.sqnr_db,
            "int8_agreement": score.agreement,
            "samples": variants.yardstick.samples,
        }
    return table


def journal_key(recipe: Recipe, runner: Runner | None = None) -> str:
    """Of everything a layer's figures depend on: data, choices and software."""
    metric = recipe.metric
    name = metric if isinstance(metric, str) else f"{metric.__module__}:{getattr(metric, '__qualname__', metric)}"
    calibration = dataclasses.replace(recipe.calibration, kept=(), rows=())
    return fingerprint(
        _JOURNAL_VERSION,
        __version__,
        str(onnxruntime.__version__),
        calibration,
        recipe.environment,
        recipe.method,
        recipe.samples,
        recipe.labels,
        name,
        sorted(recipe.exclude),
        recipe.recover,
        recipe.options,
        None if runner is None else str(getattr(runner, "identity", "another runner")),
    )


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
