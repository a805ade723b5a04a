"""`miou`: mean intersection over union; a row is the confusion matrix of an image, without its zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.metrics.metric import Labels, Metric, Outputs, PerSample, Weights, divide, mean_of_known
from harness.judge.metrics.rows import Rows
from harness.judge.segmentation import class_maps, confusion, scaled


@dataclass(frozen=True, slots=True)
class MeanIoU:
    """Mean over the classes that the masks show of right / (of the class or taken for it), over all pixels together.

    A resample that lacks a class has the mean of the others.
    """

    def value(self, rows: Rows) -> float:
        """See `Formula.value`."""
        return float(self.values(rows, np.ones((1, len(rows))))[0])

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`."""
        from scipy import sparse

        truth, predicted, pixels = (rows[f"pairs.{name}"] for name in ("truth", "predicted", "pixels"))
        classes, of_class = np.unique(truth, return_inverse=True)
        owner, shape = rows.owner("pairs"), (len(rows), len(classes))

        def total(images: NDArray[np.intp], column: NDArray[np.intp], count: NDArray[np.int64]) -> PerSample:
            """Pixels of each class in each multiset, [R, classes]."""
            table = sparse.csr_array((count.astype(np.float64), (images, column)), shape=shape)
            return np.asarray(weights @ table)

        right = truth == predicted
        known = np.isin(predicted, classes)
        taken = np.searchsorted(classes, predicted[known])
        of_truth = total(owner, of_class, pixels)
        found = total(owner[right], of_class[right], pixels[right])
        claimed = total(owner[known], taken, pixels[known])
        iou = divide(found, of_truth + claimed - found)
        return mean_of_known(np.where(of_truth > 0, iou, np.nan))

    def per_sample(self, rows: Rows) -> PerSample | None:  # noqa: ARG002 - the protocol's
        """See `Formula.per_sample`: there is none."""
        return None


def miou() -> Metric:
    """The built-in `miou`. Predictions are scaled to the size of their masks, nearest neighbour."""
    return Metric("miou", "fraction", _rows, MeanIoU(), takes="masks")


def _rows(outputs: Outputs, labels: Labels) -> Rows:
    maps = class_maps(outputs)
    if len(maps) != len(labels):
        msg = f"miou: {len(maps)} predictions for {len(labels)} masks; let postprocess keep the samples' axis"
        raise UserError(msg)
    parts = []
    for prediction, label in zip(maps, labels, strict=True):
        mask = np.asarray(label)
        if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
            msg = f"miou: a label must be a mask of integers [H, W], one is {mask.dtype}{list(mask.shape)}"
            raise UserError(msg)
        parts.append(confusion(mask, scaled(prediction, mask.shape)))
    columns = {
        name: np.concatenate([part[at] for part in parts])
        for at, name in enumerate(("pairs.truth", "pairs.predicted", "pairs.pixels"))
    }
    return Rows({"pairs.count": np.array([len(part[0]) for part in parts], np.int32), **columns})
