"""Classification: the rank of the right class, from which top-k and the mean accuracy per class follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.metrics.metric import Labels, Metric, Outputs, PerSample, Weights, divide, mean_of_known
from harness.judge.metrics.rows import Rows


def choose_scores(output_names: Sequence[str], named: str | None = None) -> str:
    """Which output carries the class scores: the one named, else the only one.

    Raises:
        UserError: several outputs and none named, or a name the network does not have.
    """
    have = ", ".join(output_names)
    if named is not None:
        if named not in output_names:
            msg = f"output {named!r}: the network has no such output; it has {have}"
            raise UserError(msg)
        return named
    if len(output_names) != 1:
        remedy = "let postprocess return the one with the class scores"
        msg = f"the network has {len(output_names)} outputs ({have}): {remedy}"
        raise UserError(msg)
    return output_names[0]


def class_scores(scores: NDArray[Any]) -> NDArray[Any] | None:
    """`scores` as [N, C] with C >= 2 ([N, C, 1, 1] counts), or None when it holds no class scores."""
    if scores.ndim < 2 or scores.shape[1] < 2 or any(size != 1 for size in scores.shape[2:]):
        return None
    return scores.reshape(scores.shape[:2])


def rank_of_label(scores: NDArray[Any], labels: Labels, name: str) -> NDArray[np.int32]:
    """How many classes stand before the right one, by score; of equal scores the lower class index is the better one.

    The tie rule is that of `numpy.argmax` and of ONNX TopK, so a result never depends on the sort in use.

    Args:
        scores: [N, C].
        labels: integers [N].
        name: of the metric, for messages.

    Returns:
        int32 [N], 0 where the network is right.

    Raises:
        UserError: shapes or labels that do not fit.
    """
    table = class_scores(scores)
    if table is None:
        shape = "x".join(str(size) for size in scores.shape)
        msg = f"{name}: the output is {shape}, not samples x classes: use a metric of your own"
        raise UserError(msg)
    classes = table.shape[1]
    truth = np.asarray(labels)
    if truth.shape != (table.shape[0],) or not np.issubdtype(truth.dtype, np.integer):
        msg = f"{name}: labels must be one integer a sample, they are {truth.dtype} of shape {truth.shape}"
        raise UserError(msg)
    outside = (truth < 0) | (truth >= classes)
    if outside.any():
        msg = f"label {truth[outside][0]}: the network has classes 0…{classes - 1}; check the labels or label_offset"
        raise UserError(msg)
    own = np.take_along_axis(table, truth[:, None].astype(np.intp), axis=1)
    earlier = np.arange(classes)[None, :] < truth[:, None]
    return np.asarray(np.sum((table > own) | ((table == own) & earlier), axis=1), np.int32)


def correct_within(scores: NDArray[Any], labels: Labels, k: int) -> PerSample:
    """1.0 where the label is among the k best classes, else 0.0.

    Args:
        scores: [N, C].
        labels: integers [N].
        k: 1…C.

    Raises:
        UserError: shapes or labels that do not fit.
    """
    table = class_scores(scores)
    if table is not None and k > table.shape[1]:
        msg = f"accuracy_top{k}: the network has only {table.shape[1]} classes"
        raise UserError(msg)
    return np.asarray(rank_of_label(scores, labels, f"accuracy_top{k}") < k, np.float64)


@dataclass(frozen=True, slots=True)
class TopK:
    """Share of the samples whose label is among the k best classes, from a column `rank`."""

    k: int

    def value(self, rows: Rows) -> float:
        """See `Formula.value`."""
        return float(np.mean(rows["rank"] < self.k))

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`."""
        return divide(weights @ (rows["rank"] < self.k), weights.sum(axis=1))

    def per_sample(self, rows: Rows) -> PerSample | None:
        """See `Formula.per_sample`."""
        return np.asarray(rows["rank"] < self.k, np.float64)


@dataclass(frozen=True, slots=True)
class MeanAccuracy:
    """Mean over the classes that the labels show of the share that is right, from columns `rank` and `label`.

    A resample that lacks a class has the mean of the others.
    """

    def value(self, rows: Rows) -> float:
        """See `Formula.value`."""
        return float(self.values(rows, np.ones((1, len(rows))))[0])

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`."""
        from scipy import sparse

        classes, column = np.unique(rows["label"], return_inverse=True)
        at = (np.arange(len(rows)), column)
        shape = (len(rows), len(classes))
        right = sparse.csr_array(((rows["rank"] == 0).astype(np.float64), at), shape=shape)
        present = sparse.csr_array((np.ones(len(rows)), at), shape=shape)
        return mean_of_known(divide(np.asarray(weights @ right), np.asarray(weights @ present)))

    def per_sample(self, rows: Rows) -> PerSample | None:  # noqa: ARG002 - the protocol's
        """See `Formula.per_sample`: there is none."""
        return None


def accuracy(k: int, scores_output: str | None = None) -> Metric:
    """The built-in `accuracy_top<k>`."""
    name = f"accuracy_top{k}"

    def rows(outputs: Outputs, labels: Labels) -> Rows:
        scores = outputs[choose_scores(list(outputs), scores_output)]
        correct_within(scores[:1], np.asarray(labels)[:1], k)  # refuses a k beyond the classes
        return Rows({"rank": rank_of_label(scores, labels, name)})

    return Metric(name, "fraction", rows, TopK(k), takes="classes")


def mean_accuracy(scores_output: str | None = None) -> Metric:
    """The built-in `mean_accuracy`: each class counts alike, however many samples it has."""

    def rows(outputs: Outputs, labels: Labels) -> Rows:
        scores = outputs[choose_scores(list(outputs), scores_output)]
        rank = rank_of_label(scores, labels, "mean_accuracy")
        return Rows({"rank": rank, "label": np.asarray(labels).astype(np.int32)})

    return Metric("mean_accuracy", "fraction", rows, MeanAccuracy(), takes="classes")
