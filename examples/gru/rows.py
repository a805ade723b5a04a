"""scikit-learn's digits as sequences: each image is read row by row, eight pixels a step, as a sensor would send it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from harness.demo.digits import PIXEL_MAX, split

Samples = tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]


def training() -> Samples:
    """({"rows": float32 [1197, 8, 8], 0..1}, labels): what the network was trained on."""
    return _part(0)


def held_out() -> Samples:
    """The 600 samples that training never saw, in the same form."""
    return _part(1)


def _part(which: int) -> Samples:
    digits = load_digits()
    chosen = split(len(digits.images))[which]
    images = (digits.images[chosen] / PIXEL_MAX).astype(np.float32)
    return {"rows": images}, digits.target[chosen].astype(np.int64)
