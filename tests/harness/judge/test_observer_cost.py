"""What watching cost: a known cost comes back, a drift does not look like one, and the interval covers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.observer_cost import observer_cost
from harness.record.figure import Network
from harness.record.timing import BlockRecord

F, Q = Network.FLOAT, Network.QUANTIZED


def blocks(pairs: int, cost: float, drift: float = 0.0, noise: float = 0.0, seed: int = 0) -> list[BlockRecord]:
    """As a run makes them: ABBA, every fourth pair unwatched, on a machine that slows down by `drift` over the run."""
    rng = np.random.default_rng(seed)
    made = []
    for slot in range(2 * pairs):
        pair = slot // 2
        network = (F, Q)[(slot + pair) % 2]
        watched = pair % 4 != 2
        log = math.log(2e6) + drift * slot / (2 * pairs) + cost * watched + noise * rng.standard_normal()
        made.append(
            BlockRecord(network, pair, (round(math.exp(log)),) * 3, 5e8 + slot, 1.0, 1, 0.1, 1, watched=watched)
        )
    return made


@pytest.mark.parametrize("drift", [0.0, 0.1, -0.2])
def test_a_known_cost_comes_back_whatever_the_drift(drift: float) -> None:
    for network in (F, Q):
        found = observer_cost(blocks(12, math.log(1.013), drift), network)
        assert found is not None
        assert found.percent == pytest.approx(1.3, abs=1e-3)
        assert (found.watched, found.unwatched) == (9, 3)


def test_the_same_as_another_implementation_of_least_squares() -> None:
    linear = pytest.importorskip("statsmodels.api")
    made = blocks(10, 0.004, 0.05, 0.01, seed=4)
    own = [block for block in made if block.network is Q]
    regressors = np.array([(block.started_unix_s + 0.5 - 5e8, float(bool(block.watched))) for block in own])
    design = linear.add_constant(regressors)
    fitted = linear.OLS([math.log(block.latency_ns[0]) for block in own], design).fit()
    found = observer_cost(made, Q)
    assert found is not None
    low, high = fitted.conf_int(0.05)[2]
    assert found.percent == pytest.approx(100 * math.expm1(fitted.params[2]), rel=1e-6)
    assert found.interval.low == pytest.approx(100 * math.expm1(low), rel=1e-6)
    assert found.interval.high == pytest.approx(100 * math.expm1(high), rel=1e-6)


def test_the_interval_covers_19_times_of_20() -> None:
    covered = 0
    for seed in range(600):
        found = observer_cost(blocks(8, math.log(1.005), 0.03, 0.02, seed), F)
        assert found is not None
        covered += found.interval.low <= 0.5 <= found.interval.high
    assert 0.92 <= covered / 600 <= 0.975  # three standard deviations of 600 draws at 95 %


def test_too_little_to_say() -> None:
    assert observer_cost(blocks(4, 0.1), F) is None  # one unwatched block
    assert observer_cost([], F) is None
    old = [BlockRecord(F, pair, (1000,), float(pair), 1.0, 1, 0.1, 1) for pair in range(20)]
    assert observer_cost(old, F) is None  # of a version that did not say
