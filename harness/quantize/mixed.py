"""Mixed precision: the fewest layers left in float with which a network meets a target, verified by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite, isnan
from pathlib import Path
from typing import Protocol, Unpack, runtime_checkable

import pandas as pd

from harness.errors import UserError
from harness.quantize.calibrator import Calibration
from harness.quantize.fidelity import Runner, Score
from harness.quantize.journal import Journal
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.rulebooks import rule_book
from harness.quantize.sensitivity import SWEEP_STEPS, LayerCost, Progress, journal_key, rank
from harness.quantize.variants import Asked, Variants, recipe_of

#: Gains closer than this are equal even where the samples say no error: as much as a correction must bring to be kept.
_LEAST_NOISE_DB = 0.1
#: Layers that a one-line note names; `float_layers` has them all.
_NAMED = 6


class Kind(StrEnum):
    """What a target is about."""

    SQNR_DB = "sqnr_db"  # of the scores, at least
    AGREEMENT = "agreement"  # top-1 agreement with the float network, a share, at least
    LOSS_POINTS = "loss_points"  # what the metric loses against the float network, points, at most


@dataclass(frozen=True)
class Goal:
    """What a mixed-precision network has to reach on the held-back samples.

    Args:
        kind: which figure.
        value: at least (SQNR in dB, agreement as a share), or at most (points lost).

    Raises:
        UserError: a value that the figure cannot have.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if self.kind is Kind.AGREEMENT and not 0 <= self.value <= 1:
            msg = f"agreement target {self.value:g}: it is a share; give 0 … 1 (0.99 for 99 %)"
            raise UserError(msg)
        if isnan(self.value):
            msg = f"{self.kind} target: not a number"
            raise UserError(msg)

    def figure(self, score: Score, reference: Score) -> float:
        """The figure of one network.

        Raises:
            UserError: the samples do not give it.
        """
        if self.kind is Kind.SQNR_DB:
            return score.sqnr_db
        if self.kind is Kind.AGREEMENT:
            if score.agreement is None:
                msg = "agreement target: the network's first output holds no class scores; give an SQNR target"
                raise UserError(msg)
            return score.agreement
        if score.accuracy is None or reference.accuracy is None:
            msg = "accuracy target: the held-back samples have no labels; give labelled ones, or an SQNR target"
            raise UserError(msg)
        return 100 * (reference.accuracy - score.accuracy)

    def met(self, figure: float) -> bool:
        """Whether a figure is good enough. Shares and points are quotients of counts: rounding must not decide."""
        if self.kind is Kind.LOSS_POINTS:
            return figure <= self.value + 1e-9
        return figure >= self.value - 1e-9

    def better(self, figure: float) -> float:
        """A number that grows as the figure gets better."""
        return -figure if self.kind is Kind.LOSS_POINTS else figure

    def text(self, figure: float) -> str:
        """A figure of this kind, for a person."""
        return {
            Kind.SQNR_DB: f"SQNR {figure:.2f} dB",
            Kind.AGREEMENT: f"top-1 agreement {figure:.4g}",
            Kind.LOSS_POINTS: f"{figure:.3g} points lost",
        }[self.kind]


def goal_of(sqnr_db: float | None, agreement: float | None, loss_points: float | None) -> Goal | None:
    """The goal that one of three arguments names; None where none does.

    Raises:
        UserError: two are given.
    """
    given = [
        Goal(kind, value)
        for kind, value in ((Kind.SQNR_DB, sqnr_db), (Kind.AGREEMENT, agreement), (Kind.LOSS_POINTS, loss_points))
        if value is not None
    ]
    if len(given) > 1:
        msg = "one target at a time: SQNR, agreement or accuracy; remove the others"
        raise UserError(msg)
    return given[0] if given else None


@dataclass(frozen=True)
class Step:
    """One network that was made and run on the way.

    Args:
        layers: those left in float.
        figure: what the goal is about.
        sqnr_db: of the scores.
        met: whether the goal is.
    """

    layers: tuple[str, ...]
    figure: float
    sqnr_db: float
    met: bool


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


@runtime_checkable
class NetworkTimer(Protocol):
    """Times networks where they will run: a board."""

    def cost_ms(self, candidate: QuantizedModel, all_int8: QuantizedModel) -> float:
        """How much longer than the all-int8 network the candidate takes per inference, ms."""


class Board(Runner, NetworkTimer, Protocol):
    """A board that runs variants and, unless it is a stand-in, times them."""

    @property
    def timed(self) -> bool:
        """Whether its times mean anything."""


#: Layer → what leaving it in float costs, ms: measured before, computed on demand, or timed with real networks.
Latency = Mapping[str, float] | Callable[[str], float] | NetworkTimer


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
        search = _Search(variants, goal)
        ranking: list[LayerCost] = []
        costs = _Costs(sweep, latency)
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


class _Costs:
    """Latency of leaving a layer in float, asked once each and only when it matters."""

    def __init__(self, variants: Variants, latency: Latency | None) -> None:
        self._variants = variants
        self._latency = latency
        self._all_int8: QuantizedModel | None = None
        self.known: dict[str, float] = {}

    @property
    def given(self) -> bool:
        return self._latency is not None

    def of(self, layer: str) -> float:
        if layer not in self.known:
            self.known[layer] = self._ask(layer)
        return self.known[layer]

    def _ask(self, layer: str) -> float:
        latency = self._latency
        assert latency is not None
        if isinstance(latency, Mapping):
            # Unknown is not cheap.
            return float(latency.get(layer, float("inf")))
        if isinstance(latency, NetworkTimer):
            self._all_int8 = self._all_int8 or self._variants.write(())
            candidate = self._variants.write([layer])
            try:
                return latency.cost_ms(candidate, self._all_int8)
            finally:
                candidate.path.unlink(missing_ok=True)
        return float(latency(layer))


class _Search:
    """Tries sets of float layers; remembers each."""

    def __init__(self, variants: Variants, goal: Goal) -> None:
        self._variants = variants
        self._goal = goal
        self._tried: dict[frozenset[str], Step] = {}

    @property
    def path(self) -> list[Step]:
        return list(self._tried.values())

    def step(self, layers: Sequence[str]) -> Step:
        key = frozenset(layers)
        if key not in self._tried:
            score = self._variants.score(key)[1]
            figure = self._goal.figure(score, self._variants.yardstick.float_score)
            self._tried[key] = Step(tuple(layers), figure, score.sqnr_db, self._goal.met(figure))
        return self._tried[key]

    def met(self, layers: Sequence[str]) -> bool:
        return self.step(layers).met

    def smallest(self, ranking: Sequence[LayerCost], costs: _Costs, most: int) -> tuple[str, ...]:
        """The smallest set found, most sensitive first; where nothing meets the goal, the best that was tried."""
        # What a layer gains and what it costs alone rank layers differently where errors cancel or add up.
        alone = sorted(ranking, key=lambda cost: float("inf") if cost.alone_db is None else cost.alone_db)
        found = self._pruned(self._by_latency(ranking, costs, most), most)
        fewer = self._pruned([cost.layer for cost in alone], most if found is None else len(found) - 1)
        if fewer is not None or found is not None:
            return fewer or found or ()
        best = max(self.path, key=lambda step: (self._goal.better(step.figure), -len(step.layers)))
        return best.layers

    def _pruned(self, order: Sequence[str], most: int) -> tuple[str, ...] | None:
        """The shortest head of the list that meets the goal, without the layers that can be int8 after all."""
        length = self._head(order, most)
        if not length:
            return None
        chosen = list(order[:length])
        for layer in reversed(order[:length]):
            without = [name for name in chosen if name != layer]
            if without and self.met(without):
                chosen = without
        return tuple(chosen)

    def _head(self, order: Sequence[str], most: int) -> int:
        """Length of the shortest head of the list that meets the goal, by doubling and bisection; 0 for none."""
        low, high = 0, min(1, most)
        while high and not self.met(order[:high]):
            if high == most:
                return 0
            low, high = high, min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            if self.met(order[:middle]):
                high = middle
            else:
                low = middle
        return high

    def _by_latency(self, ranking: Sequence[LayerCost], costs: _Costs, most: int) -> list[str]:
        """The order of gains, with ties decided by latency where they touch the head that meets the goal."""
        order = [cost.layer for cost in ranking]
        length = self._head(order, most) if costs.given else 0
        decided: list[str] = []
        for group in ties(ranking):
            names = [cost.layer for cost in group]
            if len(group) > 1 and len(decided) < length:
                names.sort(key=costs.of)  # stable: equal costs stay in order of gain
            decided.extend(names)
        return decided


def ties(ranking: Sequence[LayerCost]) -> list[list[LayerCost]]:
    """Groups of layers whose gains are equal within noise, each compared with the first of its group.

    Equal: the difference is at most the two standard errors taken together (root of the sum of squares; about one
    standard error of the difference), or 0.1 dB where they are smaller or unknown.
    """
    groups: list[list[LayerCost]] = []
    for cost in ranking:
        if groups:
            leader = groups[-1][0]
            error = ((leader.gain_error_db or 0.0) ** 2 + (cost.gain_error_db or 0.0) ** 2) ** 0.5
            if leader.gain_db - cost.gain_db <= max(error, _LEAST_NOISE_DB):
                groups[-1].append(cost)
                continue
        groups.append([cost])
    return groups
