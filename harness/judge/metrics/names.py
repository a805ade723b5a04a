"""Metrics by name, and their values from rows that were kept."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from harness.errors import UserError
from harness.judge.metrics import detection
from harness.judge.metrics.classes import accuracy, mean_accuracy
from harness.judge.metrics.metric import Formula, Mean, Metric
from harness.judge.metrics.own import own_metric
from harness.judge.metrics.regression import KINDS, closeness
from harness.judge.metrics.rows import Rows
from harness.judge.metrics.segmentation import miou

_TOP_K = re.compile(r"accuracy_top([1-9][0-9]{0,5})")
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
#: Names besides `accuracy_top<K>` and `module:function`.
BUILT_IN = ("mean_accuracy", "miou", *detection.NAMES, *KINDS)


def built_in(name: str, scores_output: str | None = None) -> Metric | None:
    """The metric of that name, None where it is none of ours."""
    if match := _TOP_K.fullmatch(name):
        return accuracy(int(match.group(1)), scores_output)
    if name == "mean_accuracy":
        return mean_accuracy(scores_output)
    if name == "miou":
        return miou()
    if name in detection.NAMES:
        return detection.precision(name)
    return closeness(name) if name in KINDS else None


def resolve_metrics(
    names: Sequence[str],
    import_function: Callable[[str], Callable[..., object]],
    scores_output: str | None = None,
) -> tuple[Metric, ...]:
    """The metrics that a job names, in its order.

    Args:
        names: `accuracy_top<K>`, one of `BUILT_IN`, or `module:function`.
        import_function: turns "module:function" into the function (it raises UserError where it cannot).
        scores_output: the output with the class scores, where the network has several.

    Raises:
        UserError: an unknown name (with a suggestion) or the same metric twice.
    """
    metrics: list[Metric] = []
    for name in names:
        if (metric := built_in(name, scores_output)) is None:
            if not _OWN.fullmatch(name):
                near = difflib.get_close_matches(name, ["accuracy_top1", "accuracy_top5", *BUILT_IN], n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else "use accuracy_top<K> or module:function"
                msg = f"metrics: {name!r} is no metric: {hint}"
                raise UserError(msg)
            metric = own_metric(name, import_function(name))
        if any(metric.name == other.name for other in metrics):
            msg = f"metrics: {metric.name} is named twice"
            raise UserError(msg)
        metrics.append(metric)
    return tuple(metrics)


def formula_of(metric_name: str, rows: Rows) -> Formula:
    """How rows that were kept under a metric's name combine.

    A function of one's own keeps a value per sample, whatever it is called.

    Raises:
        UserError: no metric of that name has rows.
    """
    if set(rows.columns) == {"value"}:
        return Mean()
    metric = built_in(metric_name)
    if metric is None:
        msg = f"{metric_name}: its rows ({', '.join(rows.columns)}) are those of no metric known here; update quantrig"
        raise UserError(msg)
    return metric.formula


def recompute(metric_name: str, rows: Rows) -> float:
    """The value of a metric from the rows of its samples; NaN where it does not exist.

    Args:
        metric_name: as published.
        rows: as `evaluate` made them or `harness.judge.samples.read_samples` reads them.

    Raises:
        UserError: rows that are not those of the metric.
    """
    try:
        return formula_of(metric_name, rows).value(rows)
    except KeyError as error:
        msg = f"{metric_name}: the rows lack the column {error}; they are not this metric's"
        raise UserError(msg) from error
