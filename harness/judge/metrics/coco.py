"""COCO's matching and its average precision, computed by pycocotools."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.metrics.rows import Rows

#: Overlaps (intersection over union) from which a detection finds a box: 0.50, 0.55 … 0.95 (COCO).
THRESHOLDS = np.linspace(0.5, 0.95, 10)
#: Detections of one class of one image that count (COCO's own).
_MOST_DETECTIONS = 100
_BITS = (1 << np.arange(len(THRESHOLDS))).astype(np.uint16)


def match(detections: Sequence[NDArray[np.float64]], labels: Sequence[NDArray[np.float64]]) -> Rows:
    """Which detections find a labelled box, at each of `THRESHOLDS`.

    Args:
        detections: per image [K, 6]: left, top, right, bottom, score, class.
        labels: per image [M, 6]: left, top, right, bottom, class, crowd.

    Returns:
        per image the group `detections` (`class`, `score`, and bits `found` and `ignored`, one an overlap, lowest
        first) and the group `boxes` (`class`, and `counted`: 0 for a crowd).
    """
    from pycocotools.cocoeval import COCOeval

    truth, claims = _annotations(labels, 5), _annotations(detections, 4)
    classes = sorted({one["category_id"] for one in (*truth, *claims)})
    with redirect_stdout(io.StringIO()):  # it prints how long each step took
        evaluation = COCOeval(
            _coco(truth, classes, len(labels), "iscrowd"), _coco(claims, classes, len(labels), "score"), "bbox"
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [_MOST_DETECTIONS]
        evaluation.evaluate()
    found: dict[int, list[Any]] = {}
    for one in evaluation.evalImgs:
        if one is not None:
            found.setdefault(int(one["image_id"]), []).append(one)
    return _rows([found.get(image, []) for image in range(len(labels))])


def average_precision(rows: Rows, overlaps: Sequence[int]) -> float:
    """Mean over classes with a labelled box and over some of `THRESHOLDS`, read at 101 recalls; NaN without a box."""
    from pycocotools.cocoeval import COCOeval

    classes = [int(one) for one in np.unique(rows["boxes.class"])]
    if not classes or not len(rows):
        return float("nan")
    return accumulated(COCOeval(iouType="bbox"), matches(rows, classes, overlaps), classes, len(rows), overlaps)


def accumulated(
    evaluation: Any,  # noqa: ANN401 - a COCOeval, which has no types
    matched: Sequence[dict[str, Any] | None],
    classes: Sequence[int],
    images: int,
    overlaps: Sequence[int],
) -> float:
    """The accumulation by pycocotools of what `matches` returned."""
    parameters = evaluation.params
    parameters.iouThrs = THRESHOLDS[list(overlaps)]
    parameters.areaRng, parameters.areaRngLbl = [[0, 1e10]], ["all"]
    parameters.maxDets = [_MOST_DETECTIONS]
    parameters.imgIds, parameters.catIds = list(range(images)), list(classes)
    evaluation._paramsEval = parameters  # what `evaluate` leaves: it was done when the rows were made
    evaluation.evalImgs = matched
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    known = evaluation.eval["precision"]
    known = known[known > -1]
    return float(known.mean()) if known.size else float("nan")


def _annotations(images: Sequence[NDArray[np.float64]], extra: int) -> list[dict[str, Any]]:
    """Boxes as pycocotools takes them: (left, top, width, height); `extra` is the column that only one side has."""
    made: list[dict[str, Any]] = []
    name, label = ("iscrowd", 4) if extra == 5 else ("score", 5)
    for image, boxes in enumerate(images):
        for row in boxes:
            width, height = row[2] - row[0], row[3] - row[1]
            made.append(
                {
                    "id": len(made) + 1,
                    "image_id": image,
                    "category_id": int(row[label]),
                    "bbox": [row[0], row[1], width, height],
                    "area": width * height,
                    "iscrowd": int(row[5]) if name == "iscrowd" else 0,
                    name: float(row[extra]) if name == "score" else int(row[extra]),
                }
            )
    return made


def _coco(annotations: list[dict[str, Any]], classes: list[int], images: int, kind: str) -> Any:  # noqa: ANN401, ARG001
    from pycocotools.coco import COCO

    whole = COCO()
    whole.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": one} for one in classes],
    }
    whole.createIndex()
    return whole


def _rows(images: Sequence[Sequence[Any]]) -> Rows:
    columns: dict[str, list[NDArray[Any]]] = {}
    counts: dict[str, list[int]] = {"detections": [], "boxes": []}

    def add(name: str, values: NDArray[Any]) -> None:
        columns.setdefault(name, []).append(values)

    empty = {
        "detections.class": np.int32,
        "detections.score": np.float64,
        "detections.found": np.uint16,
        "detections.ignored": np.uint16,
        "boxes.class": np.int32,
        "boxes.counted": np.uint8,
    }
    for name, kind in empty.items():
        add(name, np.empty(0, kind))
    for matches in images:
        for one in matches:
            scores = np.asarray(one["dtScores"], np.float64)
            add("detections.class", np.full(len(scores), one["category_id"], np.int32))
            add("detections.score", scores)
            add("detections.found", _packed(np.asarray(one["dtMatches"]) > 0))
            add("detections.ignored", _packed(np.asarray(one["dtIgnore"]) > 0))
            ignored = np.asarray(one["gtIgnore"])
            add("boxes.class", np.full(len(ignored), one["category_id"], np.int32))
            add("boxes.counted", (ignored == 0).astype(np.uint8))
        counts["detections"].append(sum(len(one["dtScores"]) for one in matches))
        counts["boxes"].append(sum(len(one["gtIgnore"]) for one in matches))
    made = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Rows({f"{group}.count": np.array(count, np.int32) for group, count in counts.items()} | made)


def _packed(table: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Bits of a [10, K] table, one number for each column."""
    bits: NDArray[np.uint16] = (table.reshape(len(THRESHOLDS), -1) * _BITS[:, None]).sum(axis=0).astype(np.uint16)
    return bits


def matches(rows: Rows, classes: Sequence[int], overlaps: Sequence[int]) -> list[dict[str, Any] | None]:
    """Rows as `COCOeval.evaluate` leaves them (`COCOeval.evalImgs`): class by class, image by image; None for nothing.

    Args:
        rows: as `match` makes them.
        classes: which, in that order.
        overlaps: which of `THRESHOLDS`.
    """
    bits = _BITS[list(overlaps), None]
    made: list[dict[str, Any] | None] = []
    images = np.arange(len(rows) + 1)
    for label in classes:
        claims, boxes = (np.flatnonzero(rows[f"{group}.class"] == label) for group in ("detections", "boxes"))
        # rows stand image by image: of each image they are one stretch
        first = np.searchsorted(rows.owner("detections")[claims], images)
        edge = np.searchsorted(rows.owner("boxes")[boxes], images)
        for image in range(len(rows)):
            mine, truth = claims[first[image] : first[image + 1]], boxes[edge[image] : edge[image + 1]]
            if not len(mine) and not len(truth):
                made.append(None)
                continue
            made.append(
                {
                    "dtScores": rows["detections.score"][mine],
                    "dtMatches": (rows["detections.found"][mine][None] & bits) > 0,
                    "dtIgnore": (rows["detections.ignored"][mine][None] & bits) > 0,
                    "gtIgnore": (rows["boxes.counted"][truth] == 0).astype(int),
                }
            )
    return made
