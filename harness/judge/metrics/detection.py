"""`map`, `map50`, `map75`: COCO's average precision. Boxes are matched by pycocotools; a row is an image's matches.

`map50_voc` is the area under the same precision over recall (PASCAL VOC 2010's rule) in place of COCO's 101 points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.metrics.coco import THRESHOLDS, average_precision, match
from harness.judge.metrics.metric import Labels, Metric, Outputs, PerSample, Weights, divide, mean_of_known
from harness.judge.metrics.rows import Rows

#: Recall levels at which COCO reads the precision: 0, 0.01 … 1.
_RECALLS = np.linspace(0.0, 1.00, 101)
#: Values of a table of resamples x detections held at a time.
_HELD = 4_000_000

#: Metric → (which of the ten overlaps, whether precision is read at 101 points).
_RULES: Mapping[str, tuple[tuple[int, ...], bool]] = {
    "map": (tuple(range(10)), True),
    "map50": ((0,), True),
    "map75": ((5,), True),
    "map50_voc": ((0,), False),
}
NAMES = tuple(_RULES)


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Mean over classes with a labelled box, and over overlaps, of the area under precision over recall.

    A resample that lacks a class has the mean of the others.
    """

    name: str

    def value(self, rows: Rows) -> float:
        """See `Formula.value`; COCO's own come out of pycocotools."""
        overlaps, points = _RULES[self.name]
        if points:
            return average_precision(rows, overlaps)
        return float(self.values(rows, np.ones((1, len(rows))))[0])

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`; with every weight 1 it is `value` but for rounding."""
        overlaps, points = _RULES[self.name]
        classes = np.unique(rows["boxes.class"][rows["boxes.counted"] > 0])
        if not len(classes):
            return np.full(len(weights), np.nan)
        table = np.empty((len(weights), len(classes), len(overlaps)))
        for at, one in enumerate(classes):
            for part, found in _of_class(rows, int(one), weights, overlaps, points=points):
                table[part, at] = found
        return mean_of_known(table.reshape(len(weights), -1))

    def per_sample(self, rows: Rows) -> PerSample | None:  # noqa: ARG002 - the protocol's
        """See `Formula.per_sample`: there is none."""
        return None


def _of_class(
    rows: Rows, label: int, weights: Weights, overlaps: tuple[int, ...], *, points: bool
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """(which resamples, average precision of each at each overlap); NaN where the class has no box."""
    mine = rows["detections.class"] == label
    order = np.argsort(-rows["detections.score"][mine], kind="stable")
    image = rows.owner("detections")[mine][order]
    found, ignored = (rows[f"detections.{name}"][mine][order] for name in ("found", "ignored"))
    boxes = rows["boxes.counted"] * (rows["boxes.class"] == label)
    positives = np.bincount(rows.owner("boxes"), weights=boxes, minlength=len(rows))
    step = max(1, _HELD // max(1, len(order)))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        known = weights[part] @ positives
        counted = weights[part][:, image]
        seen = np.cumsum(counted, axis=1)
        table = np.zeros((len(known), len(overlaps)))
        for column, overlap in enumerate(overlaps):
            bit = 1 << overlap
            skipped = (ignored & bit) > 0
            hit = np.flatnonzero(((found & bit) > 0) & ~skipped)
            total = np.cumsum(counted * ~skipped, axis=1) if skipped.any() else seen
            table[:, column] = _area(np.cumsum(counted[:, hit], axis=1), total[:, hit], known, points=points)
        yield part, np.where(known[:, None] > 0, table, np.nan)


def _area(
    right: NDArray[np.float64], total: NDArray[np.float64], known: NDArray[np.float64], *, points: bool
) -> NDArray[np.float64]:
    """Area under precision over recall.

    Only detections that found a box matter: recall grows there, and the monotone precision has its steps there.

    Args:
        right: boxes found so far, [R, H], at each such detection, best score first.
        total: detections counted so far.
        known: labelled boxes [R].
        points: at COCO's 101 recalls, else exactly.
    """
    if not right.shape[1]:
        return np.zeros(len(right))
    recall = right / np.where(known > 0, known, 1)[:, None]
    precision = right / (total + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if points:
        reached = np.searchsorted(_RECALLS, recall, side="right")
        steps = np.diff(reached, axis=1, prepend=0) / len(_RECALLS)
    else:
        steps = np.diff(recall, axis=1, prepend=0)
    return np.asarray(np.sum(steps * envelope, axis=1), np.float64)


def precision(name: str) -> Metric:
    """One of `NAMES`."""
    return Metric(name, "fraction", _rows, AveragePrecision(name), takes="boxes")


def _rows(outputs: Outputs, labels: Labels) -> Rows:
    found = detections(outputs)
    if len(found) != len(labels):
        msg = f"map: detections of {len(found)} images for labels of {len(labels)}"
        raise UserError(f"{msg}; let postprocess keep the samples' axis")
    return match(found, [_boxes(label) for label in labels])


def detections(outputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float64]]:
    """Per image [K, 6]: left, top, right, bottom (0…1 of the image), score, class; rows of score 0 or less dropped.

    Args:
        outputs: one array [N, K, 6] with those columns, padded with rows of score 0; or three arrays `boxes` [N, K, 4],
            `scores` [N, K] and `classes` [N, K]. Overlapping boxes are suppressed already.

    Raises:
        UserError: other shapes.
    """
    if {"boxes", "scores", "classes"} <= set(outputs):
        boxes, scores, classes = (np.asarray(outputs[n], np.float64) for n in ("boxes", "scores", "classes"))
        if boxes.ndim != 3 or boxes.shape[2] != 4 or boxes.shape[:2] != scores.shape or scores.shape != classes.shape:
            shapes = f"boxes {list(boxes.shape)}, scores {list(scores.shape)}, classes {list(classes.shape)}"
            raise UserError(f"map: {shapes}; give [N, K, 4], [N, K] and [N, K]")
        whole = np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2)
    elif len(outputs) == 1:
        whole = np.asarray(next(iter(outputs.values())), np.float64)
    else:
        have = ", ".join(outputs)
        raise UserError(f"map: outputs {have}; let postprocess return [N, K, 6], or boxes, scores and classes")
    if whole.ndim != 3 or whole.shape[2] != 6:
        msg = f"map: detections of shape {list(whole.shape)}"
        raise UserError(f"{msg}; let postprocess return [N, K, 6]: left, top, right, bottom, score, class")
    return [image[image[:, 4] > 0] for image in whole]


def _boxes(label: object) -> NDArray[np.float64]:
    """Labelled boxes of an image as [M, 6]: left, top, right, bottom, class, crowd."""
    x = np.asarray(label, np.float64)
    if x.size == 0:
        return np.empty((0, 6))
    if x.ndim != 2 or x.shape[1] not in {5, 6}:
        msg = f"map: labels of shape {list(x.shape)}"
        raise UserError(f"{msg}; give [M, 5] an image: left, top, right, bottom, class (and 1 for a crowd)")
    return x if x.shape[1] == 6 else np.column_stack([x, np.zeros(len(x))])


__all__ = ["NAMES", "THRESHOLDS", "AveragePrecision", "detections", "divide", "precision"]
