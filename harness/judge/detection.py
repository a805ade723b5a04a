"""Object detection: overlap of boxes and suppression of overlapping ones, for a job's postprocessing.

Boxes are (left, top, right, bottom) in any unit; overlap is intersection over union, which does not change when an axis
is scaled. The metrics `map`, `map50`, … take what is left ([N, K, 6], coordinates in 0…1 of the image).
"""

from __future__ import annotations

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
