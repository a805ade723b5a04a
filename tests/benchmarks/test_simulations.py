"""The simulations' own parts: replayed noise, the peer, and that a broken rule would be seen."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.figures import Goal
from benchmarks.simulations import intervals, ratio
from benchmarks.simulations.noise import Noise, is_first_arm, normal, ratios, recorded, swapped
from harness.judge.statistics import Interval, mean_interval
from harness.record.figure import Network
from harness.record.timing import StoppingRule
from harness.runs.timing import pair_order


def test_the_order_is_that_of_a_run() -> None:
    arms = [network is Network.FLOAT for pair in range(6) for network in pair_order(pair)]
    assert is_first_arm(12).tolist() == arms
    blocks = np.arange(8.0)
    assert ratios(blocks).tolist() == [0 - 1, 3 - 2, 4 - 5, 7 - 6]
    assert ratios(swapped(blocks)).tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("kind", ["short", "long"])
def test_recorded_noise_is_whole_and_has_no_difference(kind: str) -> None:
    noise = recorded(kind)
    assert len(noise.groups) >= 5
    assert all(len(group) == 80 and np.isfinite(group).all() for group in noise.groups)
    rng = np.random.default_rng(1)
    runs = np.array([np.median(ratios(noise.run(rng, 40))) for _ in range(300)])
    assert abs(float(runs.mean())) < 4 * float(runs.std()) / np.sqrt(300)


def test_a_stretch_keeps_its_neighbours() -> None:
    group = np.arange(80.0)
    run = Noise("steps", (group,), centred=False).run(np.random.default_rng(0), 8)
    steps = np.abs(np.diff(run))
    assert np.count_nonzero(steps > 3) <= 1  # where the group starts over


def test_sequential_order_takes_a_drift_for_a_difference() -> None:
    blocks = normal(np.random.default_rng(3), 30, 0.01) + np.linspace(0, 0.1, 60)
    found, called = ratio.sequential(blocks, 0.0)
    assert called
    assert found == pytest.approx(0.05, abs=0.01)
    rule = StoppingRule(6, 0.015, 15)
    mean, half, _ = ratio.settle(rule, ratios(blocks))
    assert abs(mean) <= half


def test_a_rule_that_looks_at_too_little_would_be_seen() -> None:
    # the same coverage figure, of an interval a third too narrow
    def narrow(rng: np.random.Generator) -> tuple[Interval | None, float]:
        whole = mean_interval(rng.normal(0, 1, 20))
        assert whole is not None
        centre, half = (whole.low + whole.high) / 2, (whole.high - whole.low) / 2
        return Interval(centre - half / 1.5, centre + half / 1.5), 0.0

    assert intervals._row("too narrow", 500, narrow).met is False
    assert intervals._row("mean", 500, lambda rng: (mean_interval(rng.normal(0, 1, 20)), 0.0)).met is True
    assert Goal("ours", least=93, most=97).text("%") == "93-97 %"
