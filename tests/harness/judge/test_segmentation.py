"""Mean intersection over union against counts by hand and scikit-learn's Jaccard score."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge.segmentation import Confusion


def test_counts_worked_out_by_hand() -> None:
    counts = Confusion(3)
    counts.add(np.array([[0, 0, 1], [1, 1, 255]]), np.array([[0, 1, 1], [1, 0, 2]]))
    # class 0: 1 right, union 3; class 1: 2 right, union 4; class 2: not in the truth; one pixel ignored
    assert counts.mean_iou == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert counts.pixel_accuracy == 3 / 5


def test_it_is_the_macro_jaccard_score_whatever_the_cut_into_images() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    random = np.random.default_rng(1)
    truth, predicted = random.integers(0, 5, (4, 30, 30)), random.integers(0, 5, (4, 30, 30))
    counts = Confusion(5)
    for one, other in zip(truth, predicted, strict=True):
        counts.add(one, other)
    assert counts.mean_iou == pytest.approx(metrics.jaccard_score(truth.ravel(), predicted.ravel(), average="macro"))


def test_shapes_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"truth is \(2, 2\), the prediction \(4,\)"):
        Confusion(2).add(np.zeros((2, 2), int), np.zeros(4, int))
