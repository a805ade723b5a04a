from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import UserError
from harness.judge.timing import speedup
from harness.record.figure import Network
from harness.record.timing import BlockRecord
from harness.runs.profile import PROFILES, find_profile
from harness.runs.timing import pair_order


def blocks(ratio: float, drift: float, noise: float, pairs: int, seed: int = 0) -> list[BlockRecord]:
    """Blocks in the order a run makes them, on a machine that slows down linearly by `drift` over the run."""
    rng = np.random.default_rng(seed)
    made = []
    for pair in range(pairs):
        for half, network in enumerate(pair_order(pair)):
            time = (2 * pair + half) / (2 * pairs - 1)
            base_ms = 1.0 if network is Network.FLOAT else ratio
            median_ns = int(1e6 * base_ms * (1 + drift * time) * math.exp(noise * rng.standard_normal()))
            made.append(BlockRecord(network, pair, (median_ns,) * 3, 0.0, 1.0, 1, 0.1, 1))
    return made


def test_a_linear_drift_cancels_in_the_order_of_the_pairs() -> None:
    order = [network for pair in range(4) for network in pair_order(pair)]
    positions = {n: sum(i for i, one in enumerate(order) if one is n) for n in set(order)}
    assert positions[Network.FLOAT] == positions[Network.QUANTIZED]


@pytest.mark.parametrize("pairs", [8, 12, 20])
def test_the_ratio_is_true_despite_ten_percent_drift(pairs: int) -> None:
    found = speedup(blocks(ratio=0.5, drift=0.10, noise=0.0, pairs=pairs))
    assert found is not None
    assert found.value == pytest.approx(2.0, rel=2e-3)
    # the same times in sequential order are off by far more: the reason for ABBA
    made = blocks(ratio=0.5, drift=0.10, noise=0.0, pairs=pairs)
    assert len(made) == 2 * pairs


def test_an_unknown_profile_is_one_line() -> None:
    with pytest.raises(UserError, match="quick, standard, release"):
        find_profile("fast")
    assert all(find_profile(name).name == name for name in PROFILES)
