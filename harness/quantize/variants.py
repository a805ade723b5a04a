"""Variants of one int8 network that differ in which layers stay float: made, read back, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.covering import covering
from harness.quantize.feed import Batch
from harness.quantize.fidelity import Runner, Score, Yardstick, run_here
from harness.quantize.graph import Graph, read_model
from harness.quantize.layer_names import as_prepared
from harness.quantize.placement import make_plan
from harness.quantize.preparation import prepare_model
from harness.quantize.quantizer import QuantizedModel, quantize
from harness.quantize.recovery.recover import check_steps
from harness.quantize.rulebooks import rule_book
from harness.quantize.rulebooks.rules import Kind
from harness.quantize.units import Unit
from harness.quantize.validation import MetricFunction


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a variant is and how it is measured; goes to other processes as it is.

    Args:
        model: the float network.
        calibration: of it.
        environment: gpu, cpu, fpga or host.
        method: how ranges are chosen; not auto, so that variants differ in one thing only.
        samples: what variants are measured on.
        labels: one a sample, or None.
        metric: of labelled samples.
        exclude: layers that are float in every variant.
        recover: steps of recovery that `quantize` may use.
        options: further arguments of `quantize`.
    """

    model: Path
    calibration: Calibration
    environment: str
    method: str
    samples: tuple[Batch, ...]
    labels: NDArray[Any] | None
    metric: str | MetricFunction
    exclude: tuple[str, ...] = ()
    recover: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Variants:
    """Makes and measures variants in a temporary folder; use it as a context manager.

    Args:
        recipe: what they have in common.
        runner: where they run; None: on this machine.
    """

    def __init__(self, recipe: Recipe, runner: Runner | None = None) -> None:
        self.recipe = recipe
        self._runner = runner or run_here
        prepared = prepare_model(read_model(recipe.model), str(recipe.model))
        self._graph = Graph(prepared.model)
        plan = make_plan(self._graph, rule_book(recipe.environment), as_prepared(recipe.exclude, prepared))
        #: The layers that can be int8 or float; those that only move values lose nothing and are left out.
        self.units: tuple[Unit, ...] = tuple(unit for unit in plan.units if unit.kind is not Kind.MOVES)
        self._known: dict[frozenset[str], tuple[QuantizedModel, Score]] = {}
        self._numbers = count()
        self._folder = tempfile.TemporaryDirectory(prefix="quantrig-variants-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @cached_property
    def yardstick(self) -> Yardstick:
        """Measures against the float network."""
        recipe = self.recipe
        return Yardstick(
            self._graph,
            recipe.samples,
            str(recipe.model),
            labels=recipe.labels,
            metric=recipe.metric,
            runner=self._runner,
        )

    def write(self, floats: Collection[str], out: Path | None = None) -> QuantizedModel:
        """The network in which these layers (and the recipe's) are float and the others int8.

        Args:
            floats: names of layers.
            out: the file; None: a new one in the temporary folder.
        """
        if out is None:
            out = Path(self._folder.name) / f"{next(self._numbers)}.onnx"
        recipe = self.recipe
        return quantize(
            recipe.model,
            recipe.calibration,
            environment=recipe.environment,
            method=recipe.method,
            exclude=(*recipe.exclude, *floats),
            out=out,
            held_back=recipe.samples,
            recover=recipe.recover,
            **self._options(floats),
        )

    def _options(self, floats: Collection[str]) -> dict[str, Any]:
        """The recipe's options without overrides of layers that are float in this variant: they have nothing to say."""
        options = dict(self.recipe.options)
        if options.get("overrides"):
            gone = {member for unit in self.units if unit.name in floats for member in unit.members}
            options["overrides"] = {layer: one for layer, one in options["overrides"].items() if layer not in gone}
        return options

    def measure(self, made: QuantizedModel) -> Score:
        """How near a written variant comes to the float network."""
        return self.yardstick.score(read_model(made.path), self.recipe.environment)

    def score(self, floats: Collection[str]) -> tuple[QuantizedModel, Score]:
        """Write and measure, once for each set of layers; the file itself is gone afterwards."""
        key = frozenset(floats)
        if key not in self._known:
            made = self.write(sorted(key))
            try:
                self._known[key] = (made, self.measure(made))
            finally:
                for file in made.path.parent.glob(f"{made.path.name}*"):  # with its external data
                    file.unlink()
        return self._known[key]


class Asked(TypedDict, total=False):
    """What decides the variants of a network, in a caller's words; `recipe_of` makes a `Recipe` of it.

    Args:
        environment: gpu, cpu (where nothing is said), fpga or host.
        method: how ranges are chosen; `auto`, the default, is resolved once, on the all-int8 network.
        held_back: samples to measure on, all of them; 16 tell an SQNR well enough, and a share is told no finer than
            1 / samples. None: the few that the calibration remembered, which flatters.
        labels: int64, one a sample of `held_back`: then the metric is compared too.
        metric: `accuracy_top<K>` or a function of (first output, labels), 1.0 being 100 points.
        exclude: layers that are float in any case.
        recover: steps of recovery that every one of these networks may use.
        options: further arguments of `quantize`.
    """

    environment: str
    method: str
    held_back: Sequence[Batch] | None
    labels: NDArray[Any] | None
    metric: str | MetricFunction
    exclude: Collection[str]
    recover: Collection[str] | None
    options: Mapping[str, Any] | None


def recipe_of(model: Path, calibration: Calibration, **asked: Unpack[Asked]) -> Recipe:
    """The recipe of a network's variants: `auto` resolved to the method it chooses for the all-int8 network.

    Args:
        model: the float network.
        calibration: of it; one of the needed tensors does (see `covering`).
        asked: see `Asked`; no steps of recovery where it names none.

    Raises:
        UserError: no sample to measure on, or `quantize` refuses.
    """
    environment, method = asked.get("environment", "cpu"), asked.get("method", "auto")
    held_back, labels = asked.get("held_back"), asked.get("labels")
    exclude = asked.get("exclude", ())
    model = Path(model)
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    samples = tuple(held_back) if held_back else tuple(calibration.kept)
    if not samples:
        msg = "nothing to measure layers on; give held_back samples"
        raise UserError(msg)
    if labels is not None and not held_back:
        msg = "labels belong to held_back samples; give both"
        raise UserError(msg)
    graph = Graph(prepare_model(read_model(model), str(model)).model)
    complete = covering(calibration, graph, rule_book(environment))
    recipe = Recipe(
        model,
        complete,
        environment,
        method,
        samples,
        labels,
        asked.get("metric", "accuracy_top1"),
        tuple(exclude),
        tuple(sorted(check_steps(asked.get("recover") or ()))),
        dict(asked.get("options") or {}),
    )
    if method == "auto":
        with Variants(replace(recipe, recover=())) as variants:
            chosen = variants.write(()).method
        # A network with nothing to quantize has no method; any serves.
        recipe = replace(recipe, method="minmax" if chosen == "none" else chosen)
    return recipe
