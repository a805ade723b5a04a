"""What is remembered of a stream when its passes are larger than everything that may be kept."""

from __future__ import annotations

import numpy as np

from harness.quantize.reservoir import MOST_SAMPLES, Reservoir


def test_passes_of_a_large_fixed_batch_end_at_one() -> None:
    reservoir = Reservoir()
    size = 40 * MOST_SAMPLES
    for index in range(5):
        reservoir.pass_by(index * size, {"x": np.full((size, 4), index, np.float32)}, size, {"x": False})
    assert [entry[0] for entry in reservoir.entries] == [0]
    assert not reservoir.entries[0][1]["x"].any()
