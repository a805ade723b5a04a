"""Semantic segmentation: mean intersection over union from a confusion matrix that grows image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Confusion:
    """How often a pixel of one class was taken for another.

    Args:
        classes: how many there are; pixels of truth outside 0…classes-1 are ignored.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """One image: two arrays of class numbers of the same shape.

        Raises:
            ValueError: the shapes differ, or a prediction is no class.
        """
        if truth.shape != predicted.shape:
            msg = f"truth is {truth.shape}, the prediction {predicted.shape}"
            raise ValueError(msg)
        size = len(self.counts)
        counted = (truth >= 0) & (truth < size)
        pairs = truth[counted].astype(np.int64) * size + predicted[counted]
        self.counts += np.bincount(pairs, minlength=size * size).reshape(size, size)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that the truth has of right / (of the class or taken for it), 0…1."""
        right = np.diag(self.counts)
        present = self.counts.sum(axis=1) > 0
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - right
        return float(np.mean(right[present] / union[present]))
