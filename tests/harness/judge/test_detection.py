"""Boxes: overlaps and suppression worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge.detection import overlap, suppress


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
