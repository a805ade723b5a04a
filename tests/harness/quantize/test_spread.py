"""Items spread over a sequence."""

from __future__ import annotations

import numpy as np
import pytest

from harness.quantize.spread import evenly, worth_keeping


@pytest.mark.parametrize("length", [0, 1, 7, 16, 17, 31, 32, 33, 100, 1875])
def test_picks_are_spread_over_all_of_the_sequence(length: int) -> None:
    picked = list(evenly(range(length), 16))
    assert len(picked) == min(length, 16)
    assert sorted(set(picked)) == picked
    if length > 16:
        gaps = np.diff([0, *picked, length - 1])
        assert gaps.max() <= 2 * length / 16


def test_small_inputs_are_worth_more_samples_than_images() -> None:
    image, frame = {"x": np.zeros((2, 3, 224, 224), np.float32)}, {"x": np.zeros((1, 576), np.float32)}
    assert worth_keeping(image, 2) == worth_keeping(image) == 32
    assert worth_keeping(frame) == 64
