"""FastestDet's raw output as boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.detection import suppress

#: Scores below are no detections (the threshold mAP is usually taken with).
LEAST_SCORE = 0.01
MOST_OVERLAP = 0.45


def decode(outputs: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Raw output [N, 85, 22, 22] → [N, K, 6]: left, top, right, bottom (0..1), score, class; zeros where fewer than K.

    Channels are objectness, dx, dy, width, height and 80 classes; formulas are those of the network's own repository.
    Overlapping boxes of a class are suppressed, and boxes end where the image does, as the labelled ones do.
    """
    (raw,) = outputs.values()
    found = [suppress(image[image[:, 4] > LEAST_SCORE], MOST_OVERLAP) for image in boxes(raw)]
    whole = np.zeros((len(found), max(map(len, found)), 6))
    for row, image in zip(whole, found, strict=True):
        row[: len(image)] = image
    whole[..., :4] = whole[..., :4].clip(0, 1)
    return whole


def boxes(raw: NDArray[Any]) -> NDArray[np.float32]:
    """Every cell's box, before suppression: [N, 484, 6]."""
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
