"""Splits never overlap, are the same everywhere, and refuse to leave nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import check_labels, split
from harness.errors import UserError


@given(st.integers(2, 400), st.integers(0, 5), st.data())
def test_a_split_is_a_partition(n: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n - 1))
    made = split(n, count, seed)
    assert len(made.calibration) == count
    assert sorted(made.calibration + made.validation) == list(range(n))
    assert list(made.calibration) == sorted(made.calibration)
    assert list(made.validation) == sorted(made.validation)


def test_the_documented_order_gives_the_documented_split() -> None:
    order = sorted(range(20), key=lambda i: hashlib.sha256(f"3:{i}".encode()).hexdigest())
    assert split(20, 6, 3).calibration == tuple(sorted(order[:6]))


def test_every_sample_calibrates_about_equally_often_over_seeds() -> None:
    counts = np.zeros(50)
    for seed in range(400):
        counts[list(split(50, 10, seed).calibration)] += 1
    # Binomial(400, 0.2): mean 80, sigma 8; 50 draws stay within 5 sigma
    assert counts.min() > 40
    assert counts.max() < 120


def test_fractions() -> None:
    assert len(split(500, 0.2, 0).calibration) == 100
    assert len(split(3, 0.01, 0).calibration) == 1


@pytest.mark.parametrize(("n", "calibration"), [(10, 10), (10, 11), (1, 0.5), (2, 0.9), (0, 1)])
def test_nothing_left_to_validate_is_an_error(n: int, calibration: float) -> None:
    with pytest.raises(UserError, match="leave none to validate with"):
        split(n, calibration, 0)


def test_labels_outside_the_classes_are_named() -> None:
    labels = np.array([3, 1000, 999, -1], np.int64)
    with pytest.raises(UserError) as caught:
        check_labels(labels, 1000, ids=("a", "x.jpg", "c", "d"), where="labels.csv")
    message = str(caught.value)
    assert message.startswith("labels.csv: sample x.jpg has label 1000, outside the 1000 classes")
    assert "label_offset" in message
    assert "2 of 4" in message
    check_labels(labels[[0, 2]], 1000)
