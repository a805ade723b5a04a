"""COCO images as FastestDet takes them, its raw output as boxes, and mAP@0.5 against the labelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.judge.detection import mean_average_precision, suppress

FOLDER = Path(__file__).parents[3] / "shared/data/coco128"
SIZE = 352
#: Scores below are no detections (the threshold mAP is usually taken with).
LEAST_SCORE = 0.01
MOST_OVERLAP = 0.45


def load() -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """All images, stretched to 352 x 352: ({"input.1": uint8 [N, 352, 352, 3] RGB}, their numbers int64 [N])."""
    paths = sorted((FOLDER / "images").glob("*.jpg"))
    images = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths]
    return {"input.1": np.stack([np.asarray(image) for image in images])}, np.array([int(path.stem) for path in paths])


def decode(outputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Raw output [N, 85, 22, 22] → [N, 484, 6]: left, top, right, bottom (0..1), score, class; before suppression.

    Channels are objectness, dx, dy, width, height and 80 classes; formulas are those of the network's own repository.
    """
    (raw,) = outputs.values()
    count, _, rows, columns = raw.shape
    objectness, dx, dy, width, height = (raw[:, channel] for channel in range(5))
    score = objectness**0.6 * raw[:, 5:].max(axis=1) ** 0.4
    x = (np.arange(columns) + np.tanh(dx)) / columns
    y = (np.arange(rows)[:, None] + np.tanh(dy)) / rows
    half_width, half_height = _sigmoid(width) / 2, _sigmoid(height) / 2
    fields = (x - half_width, y - half_height, x + half_width, y + half_height, score, raw[:, 5:].argmax(axis=1))
    return np.stack(fields, axis=-1).reshape(count, rows * columns, 6).astype(np.float32)


def _sigmoid(value: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = 1 / (1 + np.exp(-value))
    return result


def map50(outputs: dict[str, NDArray[Any]], image_numbers: NDArray[np.int64]) -> float:
    """Mean average precision at an overlap of 0.5, of what `decode` returns."""
    (boxes,) = outputs.values()
    detections = [suppress(image[image[:, 4] > LEAST_SCORE], MOST_OVERLAP) for image in boxes]
    for image in detections:  # labelled boxes end where the image does
        image[:, :4] = image[:, :4].clip(0, 1)
    return mean_average_precision(detections, [labelled(int(number)) for number in image_numbers])


def labelled(image_number: int) -> NDArray[np.float64]:
    """The labelled boxes of an image: [M, 5] left, top, right, bottom (0..1), class."""
    path = FOLDER / "labels_yolo" / f"{image_number:012d}.txt"
    if not path.exists() or not path.read_text().strip():
        return np.empty((0, 5))
    kind, x, y, width, height = np.loadtxt(path, ndmin=2).T
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2, kind], axis=1)
