"""Semantic segmentation: class maps from outputs, and how often a pixel of one class was taken for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError

#: Pixels of a mask with this value, or with a negative one, are not counted (PASCAL VOC's own).
IGNORED = 255
#: Up to so many pairs of classes are counted in a table, more by sorting, which takes ten times as long.
_COUNTED = 1 << 22


def class_maps(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.integer[Any]]:
    """The class of each pixel, integers [N, H, W].

    Args:
        outputs: one array: class numbers, integers [N, H, W]; or scores [N, C, H, W] or [N, H, W, C], whose best class
            is taken. The class axis is the one that is smaller than both sides of the picture.

    Raises:
        UserError: neither, or scores whose class axis is not plain to see.
    """
    if len(outputs) != 1:
        msg = f"miou: the network has {len(outputs)} outputs ({', '.join(outputs)}): let postprocess return the map"
        raise UserError(msg)
    (found,) = outputs.values()
    if found.ndim == 3 and np.issubdtype(found.dtype, np.integer):
        if found.min(initial=0) < 0:
            raise UserError(f"miou: the output holds class {found.min()}; classes are 0 or more")
        return found
    shape = list(found.shape)
    if found.ndim != 4:
        msg = f"miou: the output is {found.dtype}{shape}; give class numbers [N, H, W] or scores by postprocess"
        raise UserError(msg)
    first, last = shape[1] < min(shape[2:]), shape[3] < min(shape[1:3])
    if first == last:
        msg = f"miou: which axis of {shape} holds the classes? let postprocess return class numbers [N, H, W]"
        raise UserError(msg)
    best: NDArray[np.integer[Any]] = found.argmax(axis=1 if first else 3)
    return best


def scaled(prediction: NDArray[np.integer[Any]], shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
    """A class map at another size, nearest neighbour (Pillow's).

    Args:
        prediction: [H, W].
        shape: (height, width) wanted.
    """
    if prediction.shape == tuple(shape):
        return prediction
    from PIL import Image

    picture = Image.fromarray(prediction.astype(np.int32), mode=None)
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def confusion(
    truth: NDArray[Any], predicted: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Pairs of classes that occur in one image, unlabelled pixels left out.

    Args:
        truth: integers [H, W]; `IGNORED` and negative ones are not counted.
        predicted: integers of the same shape, 0 or more.

    Returns:
        (class of the truth, class that was predicted, pixels), one entry a pair.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        msg = f"truth is {truth.shape}, the prediction {predicted.shape}"
        raise ValueError(msg)
    counted = (truth >= 0) & (truth != IGNORED)
    known, claimed = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    width = int(claimed.max(initial=0)) + 1
    pairs = known * width + claimed
    if int(pairs.max(initial=0)) < _COUNTED:
        table = np.bincount(pairs)
        found = np.flatnonzero(table)
        pixels = table[found]
    else:
        found, pixels = np.unique(pairs, return_counts=True)
    return (found // width).astype(np.int32), (found % width).astype(np.int32), pixels.astype(np.int64)
