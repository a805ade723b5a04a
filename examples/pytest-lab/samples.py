"""scikit-learn's digits, 8x8 pixels each, in the forms that three of the lab's networks take.

All three were trained on one part and meet the other part here, as the fourth, the digits network of `quantrig demo`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from harness.demo.digits import PIXEL_MAX, split

Samples = tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]


def flat_training() -> Samples:
    """({"pixels": float32 [1197, 64], 0..1}, labels): what `train.py` trains on."""
    images, labels = _part(0)
    return {"pixels": images.reshape(len(images), -1)}, labels


def flat() -> Samples:
    """The 600 samples that training never saw, as 64 numbers each."""
    images, labels = _part(1)
    return {"pixels": images.reshape(len(images), -1)}, labels


def rows() -> Samples:
    """The same 600 samples row by row, as a recurrent network reads them: float32 [600, 8, 8]."""
    images, labels = _part(1)
    return {"rows": images}, labels


def _part(which: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    digits = load_digits()
    chosen = split(len(digits.images))[which]
    return (digits.images[chosen] / PIXEL_MAX).astype(np.float32), digits.target[chosen].astype(np.int64)
