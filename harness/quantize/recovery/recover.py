"""Which steps of recovery an int8 network is given: each is tried, measured on held-back data, and kept if it helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from harness.errors import UserError
from harness.quantize.candidate import Candidate
from harness.quantize.correction import bias_corrections
from harness.quantize.recovery.borders import with_scaled_borders
from harness.quantize.recovery.reconstruct import reconstructed
from harness.quantize.recovery.rescaled import Replan, with_absorbed_bias, with_filled_channels
from harness.quantize.recovery.solve import Aim
from harness.quantize.recovery.stepper import Feed
from harness.quantize.rulebooks.rules import STEPS
from harness.quantize.scales import Affine
from harness.quantize.score import Scorer
from harness.quantize.spread import evenly
from harness.quantize.weights import LayerParameters

#: Gain below which a step is not worth its change, dB.
WORTH_DB = 0.1
#: Passes that layers are fitted to at least, as long as the largest tensor of all of them fits `_TOO_MANY_BYTES`.
_LEAST_PASSES = 16
#: The largest tensor of all fitted samples together stays below this where more than the least are fitted.
_MOST_BYTES = 48 << 20
_TOO_MANY_BYTES = 256 << 20
#: However large tensors are.
_NEVER_LESS = 4


def check_steps(names: Collection[str]) -> frozenset[str]:
    """The names as a set.

    Raises:
        UserError: a step is unknown.
    """
    names = {names} if isinstance(names, str) else names
    for name in names:
        if name not in STEPS:
            msg = f"recover: {name!r} is unknown; choose from {', '.join(STEPS)}"
            raise UserError(msg)
    return frozenset(names)


@dataclass(frozen=True)
class RecoveryStep:
    """One step that was tried.

    Args:
        name: of the step.
        before_db: mean SQNR of the network's scores without it.
        after_db: with it.
        kept: whether it is part of the result.
        activations_only: measured with float weights; without a gain there, weights are not rounded anew.
    """

    name: str
    before_db: float
    after_db: float
    kept: bool
    activations_only: bool = False

    def __str__(self) -> str:
        outcome = "kept" if self.kept else "not kept"
        if self.activations_only:
            outcome += ", int8 activations alone"
        return f"{self.name}: {self.before_db:.1f} -> {self.after_db:.1f} dB, {outcome}"


@dataclass(frozen=True)
class Made:
    """An int8 network and how good it is.

    Args:
        candidate: what it was made from.
        network: the int8 network.
        scores: SQNR on each held-back sample, dB.
    """

    candidate: Candidate
    network: ModelProto
    scores: NDArray[np.float64]

    @property
    def score_db(self) -> float:
        """Mean SQNR."""
        return float(np.mean(self.scores))


class Recovery:
    """Makes the best int8 network of a candidate that the allowed steps lead to.

    Args:
        method: how scales are chosen.
        scorer: of networks, on samples that nothing is fitted to.
        feeds: samples to fit on.
        replan: the plan of a network that was reshaped.
        allowed: names of steps.
        what: how to call the network in an error.
        progress: called with a line on what is being done.
    """

    def __init__(
        self,
        method: str,
        scorer: Scorer,
        feeds: Sequence[Feed],
        replan: Replan,
        allowed: Collection[str],
        what: str,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self._method = method
        self._scorer = scorer
        self._feeds = feeds
        self._replan = replan
        self._allowed = allowed
        self._what = what
        self._progress = progress or (lambda _: None)
        self.steps: list[RecoveryStep] = []
        self.problems: list[str] = []

    def best(self, candidate: Candidate) -> Made:
        """The best network; `steps` then tells what was tried."""
        # Matrices are small: BLAS threads would spin more than they compute (four times the CPU seconds on two cores).
        with threadpool_limits(1, user_api="blas"):
            return self._best(candidate)

    def _best(self, candidate: Candidate) -> Made:
        best = self._settled(candidate, report=True)
        for name, reshape in (
            ("equalization", with_filled_channels),
            ("absorption", with_absorbed_bias),
            ("border-scaling", with_scaled_borders),
        ):
            if name not in self._allowed or not self._feeds:
                continue
            self._progress(name)
            try:
                other = reshape(best.candidate, self._feeds, self._replan, self._what)
                made = (
                    None if other is None or not self._promising(name, best.candidate, other) else self._settled(other)
                )
            except UserError as error:
                self.problems.append(f"{name} left out: {error}")
                continue
            if made is not None:
                best = self._better(name, best, made)
        return best

    def _promising(self, name: str, before: Candidate, after: Candidate) -> bool:
        """Whether rounding the weights anew is worth its time: int8 activations alone must have gained."""
        if "rounding" not in self._allowed:
            return True
        plain, other = (self._made(candidate, candidate.scales(self._method), {}) for candidate in (before, after))
        if helps(plain.scores, other.scores):
            return True
        self.steps.append(RecoveryStep(name, plain.score_db, other.score_db, kept=False, activations_only=True))
        return False

    def _settled(self, candidate: Candidate, *, report: bool = False) -> Made:
        """The best parameters for one candidate."""
        scales = candidate.scales(self._method)
        parameters = candidate.nearest(self._method, scales)
        best = self._made(candidate, scales, parameters)
        if "bias-correction" in self._allowed:
            corrections = bias_corrections(candidate.graph, candidate.plan, candidate.means, parameters)
            corrected = candidate.nearest(self._method, scales, corrections)
            better = self._better("bias-correction", best, self._made(candidate, scales, corrected), report=report)
            if better is not best:
                best, parameters = better, corrected
        feeds = _fitting(candidate, self._feeds)
        # Rounding includes the sequential correction of biases; that alone is tried where the whole does not help.
        for name, aim in (("rounding", Aim.WEIGHTS), ("sequential-bias-correction", Aim.BIAS)):
            if name not in self._allowed or not feeds:
                continue
            try:
                found = reconstructed(
                    candidate.graph,
                    candidate.plan,
                    scales,
                    parameters,
                    feeds,
                    aim,
                    overrides=candidate.overrides,
                    what=self._what,
                    progress=partial(self._at, name),
                )
            except (UserError, np.linalg.LinAlgError) as error:
                self.problems.append(f"{name} left out: {str(error).splitlines()[0]}")
                continue
            better = self._better(name, best, self._made(candidate, scales, found), report=report)
            if better is not best:
                return better
        return best

    def _at(self, name: str, layer: str) -> None:
        self._progress(f"{name}: {layer}")

    def _made(
        self, candidate: Candidate, scales: Mapping[str, Affine], parameters: Mapping[str, LayerParameters]
    ) -> Made:
        network = candidate.network(scales, parameters)
        return Made(candidate, network, self._scorer.scores(network, candidate.plan.rules))

    def _better(self, name: str, before: Made, after: Made, *, report: bool = True) -> Made:
        kept = helps(before.scores, after.scores)
        if report:
            self.steps.append(RecoveryStep(name, before.score_db, after.score_db, kept))
        return after if kept else before


def helps(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether a step gains at least `WORTH_DB` on average.

    Not more: to ask for a gain beyond its standard error refused sound steps wherever few samples are held back. On
    DeepLab, scored on seven images, rounding was refused so, and 72 others then lost 1.0 points instead of none.

    Args:
        before: SQNR of each sample without the step, dB.
        after: the same samples with it.
    """
    if not np.isfinite(after).all():
        return False
    if not np.isfinite(before).all():
        return True
    return bool(np.mean(after - before) >= WORTH_DB)


def _fitting(candidate: Candidate, feeds: Sequence[Feed]) -> Sequence[Feed]:
    """As many of the samples as keep the largest tensor of all passes in memory."""
    if not feeds:
        return []
    largest = 1
    weighted = {unit.name for unit in candidate.plan.units if unit.weight is not None}
    nodes = candidate.graph.nodes
    last = max((place for place, node in enumerate(nodes) if node.name in weighted), default=0)
    for node in nodes[:last]:
        for name in node.output:
            shape = candidate.graph.shape(name) if name else None
            largest = max(largest, 4 * math.prod(size or 1 for size in shape or ()))
    least = max(min(_LEAST_PASSES, _TOO_MANY_BYTES // largest), _NEVER_LESS)
    return evenly(feeds, max(min(candidate.plan.rules.fitted_samples, _MOST_BYTES // largest), least))
