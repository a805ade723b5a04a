"""Metrics: what one network's outputs are worth against the labels.

Built in is `accuracy_top<K>` for any K; `module:function` brings another one. Example:

    metrics = resolve_metrics(["accuracy_top1", "mymetrics:mean_iou"], import_function)
    metrics[0].compute({"scores": scores}, labels)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError

Outputs = Mapping[str, NDArray[Any]]
Labels = NDArray[Any]
PerSample = NDArray[np.float64]

_TOP_K = re.compile(r"accuracy_top([1-9][0-9]{0,5})")
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score outputs.

    Args:
        name: as published: accuracy_top1, or the function's name.
        unit: "fraction" for an accuracy, "" where a function's unit is its own affair.
        per_sample: (outputs, labels) → float64[N], 1.0 right and 0.0 wrong for an accuracy. None where the metric
            only exists over the whole set, or where only calling it tells.
        compute: (outputs, labels) of the whole set → the metric, or one value per sample [N] whose mean is the metric.
        higher_is_better: direction of a gate.
    """

    name: str
    unit: str
    per_sample: Callable[[Outputs, Labels], PerSample] | None
    compute: Callable[[Outputs, Labels], float | PerSample]
    higher_is_better: bool = True


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


def correct_within(scores: NDArray[Any], labels: Labels, k: int) -> PerSample:
    """1.0 where the label is among the k best classes; of equal scores the lower class index is the better one.

    The tie rule is that of `numpy.argmax` and of ONNX TopK, so a result never depends on the sort in use.

    Args:
        scores: [N, C].
        labels: integers [N].
        k: 1…C.

    Raises:
        UserError: shapes or labels that do not fit.
    """
    table = class_scores(scores)
    if table is None:
        shape = "x".join(str(size) for size in scores.shape)
        msg = f"accuracy_top{k}: the output is {shape}, not samples x classes: use a metric of your own"
        raise UserError(msg)
    classes = table.shape[1]
    if k > classes:
        msg = f"accuracy_top{k}: the network has only {classes} classes"
        raise UserError(msg)
    truth = np.asarray(labels)
    if truth.shape != (table.shape[0],) or not np.issubdtype(truth.dtype, np.integer):
        msg = f"accuracy_top{k}: labels must be one integer a sample, they are {truth.dtype} of shape {truth.shape}"
        raise UserError(msg)
    outside = (truth < 0) | (truth >= classes)
    if outside.any():
        msg = f"label {truth[outside][0]}: the network has classes 0…{classes - 1}; check the labels or label_offset"
        raise UserError(msg)
    own = np.take_along_axis(table, truth[:, None].astype(np.intp), axis=1)
    earlier = np.arange(classes)[None, :] < truth[:, None]
    rank = np.sum((table > own) | ((table == own) & earlier), axis=1)
    return np.asarray(rank < k, dtype=np.float64)


def accuracy(k: int, scores_output: str | None = None) -> Metric:
    """The built-in `accuracy_top<k>`."""

    def per_sample(outputs: Outputs, labels: Labels) -> PerSample:
        return correct_within(outputs[choose_scores(list(outputs), scores_output)], labels, k)

    def compute(outputs: Outputs, labels: Labels) -> float:
        return float(per_sample(outputs, labels).mean())

    return Metric(f"accuracy_top{k}", "fraction", per_sample, compute)


def resolve_metrics(
    names: Sequence[str],
    import_function: Callable[[str], Callable[..., object]],
    scores_output: str | None = None,
) -> tuple[Metric, ...]:
    """The metrics that a job names, in its order.

    Args:
        names: `accuracy_top<K>` or `module:function`.
        import_function: turns "module:function" into the function (it raises UserError where it cannot).
        scores_output: the output with the class scores, where the network has several.

    Raises:
        UserError: an unknown name (with a suggestion) or the same metric twice.
    """
    metrics: list[Metric] = []
    for name in names:
        if match := _TOP_K.fullmatch(name):
            metric = accuracy(int(match.group(1)), scores_output)
        elif _OWN.fullmatch(name):
            metric = own_metric(name, import_function(name))
        else:
            near = difflib.get_close_matches(name, ["accuracy_top1", "accuracy_top5"], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "use accuracy_top<K> or module:function"
            msg = f"metrics: {name!r} is no metric: {hint}"
            raise UserError(msg)
        if any(metric.name == other.name for other in metrics):
            msg = f"metrics: {metric.name} is named twice"
            raise UserError(msg)
        metrics.append(metric)
    return tuple(metrics)


def own_metric(name: str, function: Callable[..., object]) -> Metric:
    """A user's function of (outputs: dict[str, ndarray], labels) → float or one value per sample [N].

    Its result is checked: a number that is not finite, or an array of another length, is a UserError that names it.
    """

    def compute(outputs: Outputs, labels: Labels) -> float | PerSample:
        samples = len(next(iter(outputs.values()), np.empty(0)))
        try:
            result = np.asarray(function(dict(outputs), labels), dtype=np.float64)
        except UserError:
            raise
        except Exception as error:  # the user's own code may raise anything; it becomes a UserError
            msg = f"metric {name}: it raised {type(error).__name__}: {_first_line(error)}"
            raise UserError(msg) from error
        if result.ndim > 1 or (result.ndim == 1 and result.shape[0] != samples):
            msg = (
                f"metric {name}: it returned shape {result.shape}; a number or one value for each of {samples} samples"
            )
            raise UserError(msg)
        if not np.all(np.isfinite(result)):
            msg = f"metric {name}: it returned NaN or an infinite value"
            raise UserError(msg)
        return float(result) if result.ndim == 0 else result

    return Metric(name.partition(":")[2], "", None, compute)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
