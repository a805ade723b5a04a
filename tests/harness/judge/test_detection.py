"""Boxes: overlaps and precisions worked out by hand, and scikit-learn's average precision where the two coincide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge.detection import average_precision, hits, mean_average_precision, overlap, suppress


def test_overlap_of_boxes_worked_out_by_hand() -> None:
    one = np.array([[0, 0, 2, 2]])
    others = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [1, 0, 2, 2], [5, 5, 6, 6], [2, 2, 2, 2]])
    assert overlap(one, others).tolist() == [[1.0, pytest.approx(1 / 7), 0.5, 0.0, 0.0]]


def test_scaling_an_axis_changes_no_overlap() -> None:
    boxes = np.random.default_rng(0).random((20, 4)) * [1, 1, 0, 0] + [0, 0, 1.2, 1.3]
    scale = np.array([640, 3, 640, 3])
    np.testing.assert_allclose(overlap(boxes * scale, boxes * scale), overlap(boxes, boxes))


def test_suppression_keeps_the_better_box_and_other_classes() -> None:
    detections = np.array(
        [
            [0, 0, 10, 10, 0.5, 1],  # overlaps the next by 0.9: goes
            [0, 0, 10, 9, 0.9, 1],
            [0, 0, 10, 10, 0.4, 2],  # another class: stays
            [8, 8, 20, 20, 0.3, 1],  # hardly overlaps: stays
        ]
    )
    assert suppress(detections)[:, 4].tolist() == [0.9, 0.4, 0.3]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = np.array([[0, 0, 10, 1, 0.9, 0], [3, 0, 13, 1, 0.8, 0], [6, 0, 16, 1, 0.7, 0]])
    assert suppress(chain)[:, 4].tolist() == [0.9, 0.7]


def test_a_labelled_box_is_found_once_and_only_by_its_class() -> None:
    truth = np.array([[0, 0, 10, 10, 1.0]])
    detections = np.array(
        [[0, 0, 10, 9, 0.9, 2], [0, 0, 10, 9, 0.8, 1], [0, 0, 10, 10, 0.7, 1], [0, 0, 10, 4, 0.6, 1]],
    )
    assert hits(detections, truth).tolist() == [False, True, False, False]


def test_average_precision_of_a_table_worked_out_by_hand() -> None:
    # precision after each: 1, 1/2, 2/3, 1/2, 3/5; made monotone: 1, 2/3, 2/3, 3/5, 3/5; of 4 labelled boxes
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    found = np.array([True, False, True, False, True])
    assert average_precision(scores, found, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


@settings(deadline=None)  # the first example imports scikit-learn
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_it_is_at_least_the_step_sum_of_scikit_learn_and_equal_when_precision_only_falls(found: list[bool]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    truth = np.array(found)
    scores = np.linspace(1, 0.1, len(found))
    if not truth.any():
        return
    ours, theirs = (
        average_precision(scores, truth, int(truth.sum())),
        metrics.average_precision_score(truth, scores),
    )
    assert ours >= theirs - 1e-12
    falling = np.sort(truth)[::-1]
    assert average_precision(scores, falling, int(truth.sum())) == pytest.approx(
        metrics.average_precision_score(falling, scores)
    )


def test_the_mean_is_over_classes_that_are_labelled_and_padding_counts_for_nothing() -> None:
    truths = [np.array([[0, 0, 1, 1, 0.0], [2, 2, 3, 3, 5.0]]), np.empty((0, 5))]
    found = np.array([[0, 0, 1, 1, 0.9, 0], [0, 0, 0, 0, 0, 0]])
    false_alarm = np.array([[4, 4, 5, 5, 0.95, 7]])  # of a class without a label: no part in the mean
    assert mean_average_precision([found, false_alarm], truths) == 0.5


def test_a_false_alarm_on_another_image_lowers_the_precision() -> None:
    truths = [np.array([[0, 0, 1, 1, 0.0]]), np.empty((0, 5))]
    found, alarm = np.array([[0, 0, 1, 1, 0.8, 0]]), np.array([[0, 0, 1, 1, 0.9, 0]])
    assert mean_average_precision([found, alarm], truths) == 0.5


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled box"):
        mean_average_precision([np.empty((0, 6))], [np.empty((0, 5))])
    with pytest.raises(ValueError, match="1 images with detections, 0 with labels"):
        mean_average_precision([np.empty((0, 6))], [])
