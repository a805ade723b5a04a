"""Items spread over a stream."""

from __future__ import annotations

import numpy as np
import pytest

from harness.quantize.spread import Spread


@pytest.mark.parametrize("length", [0, 1, 7, 16, 17, 31, 32, 33, 100, 1875])
def test_picks_are_spread_over_all_of_the_stream(length: int) -> None:
    made: list[int] = []
    spread: Spread[int] = Spread(16)
    for number in range(length):
        spread.offer(lambda number=number: made.append(number) or number)  # type: ignore[func-returns-value,misc]
    picked = spread.picked()
    assert len(picked) == min(length, 16)
    assert sorted(set(picked)) == list(picked)
    assert len(made) < 16 * (3 + np.log2(max(length, 1)))
    if length > 16:
        gaps = np.diff([0, *picked, length - 1])
        assert gaps.max() <= 4 * length / 16
