"""How near a candidate comes to the float network on given samples: SQNR of the scores, agreement, accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from harness.errors import UserError
from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.graph import Graph
from harness.quantize.quantizer import REQUANTIZER
from harness.quantize.runtime import open_session, run_session, with_outputs
from harness.quantize.score import rounded_tensors, scored_tensors
from harness.quantize.validation import METRICS, MetricFunction, top_k

#: An SQNR above this says 'equal'; so that means and differences stay finite (as `Scorer` caps it).
MOST_DB = 200.0

Arrays = list[NDArray[Any]]


class Runner(Protocol):
    """Runs a network over feeds: on this machine (`run_here`), or on a board."""

    def __call__(
        self, model: ModelProto, names: Sequence[str], feeds: Sequence[Batch], disabled: Sequence[str], what: str, /
    ) -> Iterable[Arrays]:
        """The tensors `names` of each feed, in order; `disabled` names ONNX Runtime optimizers to switch off."""


def run_here(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Batch], disabled: Sequence[str], what: str
) -> Iterable[Arrays]:
    """A `Runner`: ONNX Runtime on this machine."""
    session = open_session(with_outputs(model, names, only=True), what, disabled_optimizers=disabled)
    return (run_session(session, feed, what, names) for feed in feeds)


@dataclass(frozen=True)
class Score:
    """How near one network came to the float one.

    Args:
        sqnr_db: of the scores, before a final softmax; mean over them where there are several; -inf when not finite.
        agreement: share of samples with the same top-1 class; None without class scores.
        accuracy: the metric's value; None without labels.
        noise: error energy by score and sample; what the standard error of a difference comes from.
    """

    sqnr_db: float
    agreement: float | None
    accuracy: float | None
    noise: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for a journal or a pipe."""
        return {
            "sqnr_db": self.sqnr_db,
            "agreement": self.agreement,
            "accuracy": self.accuracy,
            "noise": [list(row) for row in self.noise],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Score:
        """What `as_json` made.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return Score(
            float(value["sqnr_db"]),
            None if value["agreement"] is None else float(value["agreement"]),
            None if value["accuracy"] is None else float(value["accuracy"]),
            tuple(tuple(float(one) for one in row) for row in value["noise"]),
        )


def gain_error_db(better: Score, worse: Score) -> float | None:
    """Standard error of `better.sqnr_db - worse.sqnr_db` over the choice of samples, dB: a paired jackknife.

    None below two samples, or where a score is not finite. (Efron & Stein, 'The jackknife estimate of variance', 1981.)
    """
    first, second = np.asarray(better.noise), np.asarray(worse.noise)
    if first.ndim != 2 or first.shape != second.shape or first.shape[1] < 2 or not first.size:
        return None
    rest_first = first.sum(axis=1, keepdims=True) - first
    rest_second = second.sum(axis=1, keepdims=True) - second
    if not (np.isfinite(rest_first).all() and np.isfinite(rest_second).all()):
        return None
    if (rest_first <= 0).any() or (rest_second <= 0).any():
        return None
    gains = (10 * np.log10(rest_second / rest_first)).mean(axis=0)
    count = len(gains)
    return float(np.sqrt((count - 1) / count * np.sum((gains - gains.mean()) ** 2)))


class Yardstick:
    """Holds the float network's outputs on a few samples and measures candidates against them.

    Args:
        graph: the prepared float network.
        batches: samples, in order.
        labels: int64, one a sample, or None.
        metric: `accuracy_top<K>`, or a function of (first output [N, …], labels [N]).
        what: how to call the network in an error.
        runner: where networks run.

    Raises:
        UserError: no sample, labels that do not fit, or an unknown metric.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Sequence[Batch],
        what: str,
        *,
        labels: NDArray[Any] | None = None,
        metric: str | MetricFunction = "accuracy_top1",
        runner: Runner = run_here,
    ) -> None:
        self._scored = scored_tensors(graph)
        self._first = graph.outputs[0]
        self._names = tuple(dict.fromkeys((*self._scored, self._first)))
        self._runner = runner
        self._what = what
        self._feeds: list[Batch] = []
        self._counts: list[int] = []
        for inputs, count in passes(batches, input_specs(graph), "held-back data"):
            self._feeds.append(inputs)
            self._counts.append(count)
        self.samples = sum(self._counts)
        self._labels = None if labels is None else np.asarray(labels).reshape(-1)
        self._metric = find_metric(metric)
        if self._labels is not None and len(self._labels) != self.samples:
            msg = f"held-back data: {len(self._labels)} labels for {self.samples} samples; give one per sample"
            raise UserError(msg)
        self._reference, self._answers = self._run(graph.model, (), what)
        self._signal = [sum(float(np.sum(np.square(row, dtype=np.float64))) for row in t) for t in self._reference]
        #: The float network's own score: what an accuracy is compared with.
        self.float_score = self._score(self._reference, self._answers)

    def score(self, model: ModelProto, environment: str) -> Score:
        """Measure one candidate; it must still have the scored tensors."""
        return self._score(*self._run(model, (REQUANTIZER,), f"{environment} network"))

    def _score(self, values: list[Arrays], answers: NDArray[Any] | None) -> Score:
        noise = tuple(
            tuple(
                float(np.sum(np.square(one.astype(np.float64) - other.astype(np.float64))))
                for one, other in zip(mine, theirs, strict=True)
            )
            for mine, theirs in zip(self._reference, values, strict=True)
        )
        decibels = [_db(signal, sum(row)) for signal, row in zip(self._signal, noise, strict=True)]
        agreement = accuracy = None
        if answers is not None and self._answers is not None:
            agreement = _agreement(self._answers, answers)
            if self._labels is not None:
                accuracy = float(self._metric(answers, self._labels))
        return Score(float(np.mean(decibels)) if decibels else 0.0, agreement, accuracy, noise)

    def _run(self, model: ModelProto, disabled: Sequence[str], what: str) -> tuple[list[Arrays], NDArray[Any] | None]:
        """(scored tensor → one array a sample, first output [N, …] or None where it has no sample axis)."""
        scored: list[Arrays] = [[] for _ in self._scored]
        answers: Arrays = []
        whole = True
        rounded = rounded_tensors(Graph(model))
        runs = self._runner(model, [rounded.get(name, name) for name in self._names], self._feeds, disabled, what)
        for feed, count, run in zip(self._feeds, self._counts, runs, strict=True):
            values = dict(zip(self._names, run, strict=True))
            rows = next((value.shape[0] for value in feed.values() if value.ndim), 1)
            # Without a common sample axis a pass counts as one sample.
            split = all(values[name].ndim and values[name].shape[0] == rows for name in self._scored)
            for collected, name in zip(scored, self._scored, strict=True):
                collected.extend(values[name][:count] if split else [values[name]])
            first = values[self._first]
            whole = whole and first.ndim > 0 and first.shape[0] == rows
            answers.append(first[:count] if whole else first)
        return scored, np.concatenate(answers) if whole and answers else None


def find_metric(metric: str | MetricFunction) -> MetricFunction:
    """A metric by name.

    Raises:
        UserError: there is none of that name.
    """
    if not isinstance(metric, str):
        return metric
    if metric in METRICS:
        return METRICS[metric]
    rank = metric.removeprefix("accuracy_top")
    if rank != metric and rank.isdigit() and int(rank) > 0:
        return top_k(int(rank))
    msg = f"metric {metric!r} is unknown; choose accuracy_top1, accuracy_top5, …, or give a function"
    raise UserError(msg)


def _db(signal: float, noise: float) -> float:
    if not np.isfinite(noise):
        return float("-inf")
    if noise == 0:
        return MOST_DB
    return min(float(10 * np.log10(signal / noise)), MOST_DB) if signal > 0 else float("-inf")


def _agreement(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    flat, other = first.reshape(len(first), -1), second.reshape(len(second), -1)
    if flat.shape[1] < 2 or flat.dtype.kind != "f":  # one number per sample picks no class
        return None
    return float((flat.argmax(axis=1) == other.argmax(axis=1)).mean())
