"""Object detection: suppression of overlapping boxes, and mean average precision against labelled boxes.

Boxes are (left, top, right, bottom) in any unit, the same for both sides; overlap is intersection over union, which
does not change when an axis is scaled. For a metric of a job:

    def map50(outputs, image_numbers):
        truths = [read_boxes(number) for number in image_numbers]
        return mean_average_precision(outputs["boxes"], truths)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]

#: Columns of a detection.
LEFT, TOP, RIGHT, BOTTOM, SCORE, CLASS = range(6)


def overlap(first: NDArray[Any], second: NDArray[Any]) -> Boxes:
    """Intersection over union of every box of `first` [A, 4] with every one of `second` [B, 4]: [A, B], 0 if empty."""
    a, b = np.asarray(first, np.float64)[:, None, :4], np.asarray(second, np.float64)[None, :, :4]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), axis=-1) for x in (a, b)]
    union = areas[0] + areas[1] - shared
    result: Boxes = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def suppress(detections: NDArray[Any], most_overlap: float = 0.45) -> NDArray[Any]:
    """Greedy non-maximum suppression, class by class.

    Args:
        detections: [K, 6]: left, top, right, bottom, score, class.
        most_overlap: of two boxes of one class that overlap more, the lower score goes.

    Returns:
        The rest, best score first.
    """
    ordered = detections[np.argsort(-detections[:, SCORE], kind="stable")]
    shared = overlap(ordered, ordered) > most_overlap
    shared &= ordered[:, CLASS][:, None] == ordered[:, CLASS][None, :]
    kept = np.ones(len(ordered), bool)
    for index in range(len(ordered)):
        if kept[index]:
            kept[index + 1 :] &= ~shared[index, index + 1 :]
    return np.asarray(ordered[kept])


def hits(detections: NDArray[Any], truth: NDArray[Any], least_overlap: float = 0.5) -> NDArray[np.bool_]:
    """Which detections of one image find a labelled box of their class that no better one has found.

    Args:
        detections: [K, 6], best score first.
        truth: [M, 5]: left, top, right, bottom, class.
        least_overlap: for a find. Each detection is held against the box it overlaps most (PASCAL VOC's rule).

    Returns:
        bool [K].
    """
    found = np.zeros(len(detections), bool)
    if not len(truth):
        return found
    taken = np.zeros(len(truth), bool)
    shared = overlap(detections, truth)
    shared[detections[:, CLASS][:, None] != truth[:, 4][None, :]] = -1
    for index, best in enumerate(shared.argmax(axis=1)):
        if shared[index, best] >= least_overlap and not taken[best]:
            taken[best] = found[index] = True
    return found


def average_precision(scores: NDArray[Any], found: NDArray[np.bool_], positives: int) -> float:
    """Area under precision over recall of one class, precision made monotone (PASCAL VOC 2010 and later).

    Args:
        scores: of the detections of all images.
        found: whether each found a labelled box.
        positives: how many labelled boxes there are, at least one.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(found[order])
    recall = np.concatenate([[0.0], right / positives])
    precision = right / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


def mean_average_precision(
    detections: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]], least_overlap: float = 0.5
) -> float:
    """Mean over the classes that have a labelled box, 0…1.

    Args:
        detections: per image [K, 6]: left, top, right, bottom, score, class; suppressed already. Rows of score 0 or
            less are no detections (padding).
        truths: per image [M, 5]: left, top, right, bottom, class.
        least_overlap: intersection over union that makes a find.

    Raises:
        ValueError: another number of images, or no labelled box at all.
    """
    if len(detections) != len(truths):
        msg = f"{len(detections)} images with detections, {len(truths)} with labels"
        raise ValueError(msg)
    labelled = np.concatenate([np.asarray(truth).reshape(-1, 5)[:, 4] for truth in truths]) if truths else np.empty(0)
    if not len(labelled):
        msg = "no labelled box: mean average precision does not exist"
        raise ValueError(msg)
    sorted_ = [image[image[:, SCORE] > 0] for image in detections]
    sorted_ = [image[np.argsort(-image[:, SCORE], kind="stable")] for image in sorted_]
    found = np.concatenate([hits(image, truth, least_overlap) for image, truth in zip(sorted_, truths, strict=True)])
    every = np.concatenate(sorted_)
    values = []
    for label in np.unique(labelled):
        of_class = every[:, CLASS] == label
        count = int(np.sum(labelled == label))
        values.append(average_precision(every[of_class, SCORE], found[of_class], count))
    return float(np.mean(values))
