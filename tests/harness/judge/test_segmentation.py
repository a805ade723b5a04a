"""Class maps out of network outputs, and which pixels count; `miou` itself is in test_metric_values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.segmentation import class_maps, confusion, scaled


def test_pairs_worked_out_by_hand() -> None:
    truth, predicted, pixels = confusion(np.array([[0, 0, 1], [1, 1, 255]]), np.array([[0, 1, 1], [1, 0, 2]]))
    found = dict(zip(zip(truth.tolist(), predicted.tolist(), strict=True), pixels.tolist(), strict=True))
    assert found == {(0, 0): 1, (0, 1): 1, (1, 1): 2, (1, 0): 1}


def test_counting_and_sorting_agree() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 7, (40, 40)), rng.integers(0, 7, (40, 40))
    small = confusion(truth, predicted)
    large = confusion(truth * 10_000, predicted * 10_000)
    np.testing.assert_array_equal(small[0] * 10_000, large[0])
    np.testing.assert_array_equal(small[1] * 10_000, large[1])
    np.testing.assert_array_equal(small[2], large[2])


def test_negative_pixels_are_not_counted_and_classes_may_be_many() -> None:
    truth, predicted, pixels = confusion(np.array([[-1, 70_000]]), np.array([[0, 70_001]]))
    assert (truth.tolist(), predicted.tolist(), pixels.tolist()) == ([70_000], [70_001], [1])


def test_shapes_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"truth is \(2, 2\), the prediction \(4,\)"):
        confusion(np.zeros((2, 2), int), np.zeros(4, int))


@pytest.mark.parametrize("axis", [1, 3])
def test_the_class_axis_is_found(axis: int) -> None:
    wanted = np.random.default_rng(0).integers(0, 4, (2, 6, 7))
    scores = np.moveaxis(np.eye(4)[wanted], -1, axis)
    np.testing.assert_array_equal(class_maps({"x": scores}), wanted)
    np.testing.assert_array_equal(class_maps({"x": wanted}), wanted)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"x": np.zeros((1, 5, 5, 5))}, "which axis"),
        ({"x": np.zeros((1, 2, 5, 2))}, "which axis"),
        ({"x": np.zeros((1, 5, 5))}, "give class numbers"),
        ({"x": np.full((1, 5, 5), -1)}, "holds class -1"),
        ({"x": np.zeros((1, 5)), "y": np.zeros(1)}, "2 outputs"),
    ],
)
def test_what_is_no_map_is_refused(outputs: dict[str, NDArray[np.float64]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_maps(outputs)


def test_scaling_up_by_two_repeats_pixels_and_back_gives_the_map() -> None:
    small = np.random.default_rng(1).integers(0, 300, (3, 5))
    large = scaled(small, (6, 10))
    np.testing.assert_array_equal(large, small.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(scaled(large, (3, 5)), small)
