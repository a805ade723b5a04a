"""Metrics: what one network's outputs are worth against the labels.

A metric is two steps. `rows` turns outputs and labels of some samples into what each sample contributes; a formula
turns the rows of any multiset of samples into the metric. So chunks can be streamed, images resampled, and a figure
recomputed from what a run kept:

    metrics = resolve_metrics(["accuracy_top1", "mymetrics:mean_iou"], import_function)
    rows = metrics[0].rows({"scores": scores}, labels)
    recompute("accuracy_top1", rows)
"""

from harness.judge.metrics.classes import accuracy, choose_scores, class_scores, correct_within, mean_accuracy
from harness.judge.metrics.metric import Formula, Labels, Metric, Outputs, PerSample, Weights
from harness.judge.metrics.names import BUILT_IN, formula_of, recompute, resolve_metrics
from harness.judge.metrics.own import NotFinite, Raised, own_metric
from harness.judge.metrics.rows import Rows, join_rows

__all__ = [
    "BUILT_IN",
    "Formula",
    "Labels",
    "Metric",
    "NotFinite",
    "Outputs",
    "PerSample",
    "Raised",
    "Rows",
    "Weights",
    "accuracy",
    "choose_scores",
    "class_scores",
    "correct_within",
    "formula_of",
    "join_rows",
    "mean_accuracy",
    "own_metric",
    "recompute",
    "resolve_metrics",
]
