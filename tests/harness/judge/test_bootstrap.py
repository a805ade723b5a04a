"""The paired bootstrap against scipy's, its draws against numpy's published constants, and what has no interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.judge.bootstrap import bca, draws, paired_bootstrap, without_groups
from harness.judge.metrics import Rows, resolve_metrics
from harness.judge.metrics.metric import Mean
from harness.judge.statistics import mean_interval


def test_intervals_of_a_mean_are_students() -> None:
    rng = np.random.default_rng(2)
    first = rng.gamma(1.5, size=150)
    second = first * 0.9 + rng.gamma(0.5, size=150)
    found = paired_bootstrap(Mean(), Rows({"value": first}), Rows({"value": second}), resamples=20_000)
    pairs = ((found.first, first), (found.second, second), (found.difference, second - first))
    for interval, values in pairs:
        exact = mean_interval(values)
        assert interval is not None
        assert exact is not None
        width = exact.high - exact.low
        assert interval.low == pytest.approx(exact.low, abs=0.02 * width)
        assert interval.high == pytest.approx(exact.high, abs=0.02 * width)


def test_bca_limits_are_those_of_scipy() -> None:
    values = np.random.default_rng(2).gamma(0.7, size=60)
    drawn = np.concatenate([block @ values for block in draws(60, 20_000)]) / 60
    left_out = without_groups(60) @ values / 59
    ours = bca(drawn, float(values.mean()), left_out)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(3))
    limits = theirs.confidence_interval
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((limits.low, limits.high), abs=0.03 * (limits.high - limits.low))


def test_both_networks_are_drawn_alike() -> None:
    values = np.random.default_rng(0).normal(size=80)
    found = paired_bootstrap(Mean(), Rows({"value": values}), Rows({"value": values - 0.25}))
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.25, -0.25))
    assert found.first is not None
    assert found.first.high - found.first.low > 0.3


def test_draws_are_fixed_for_all_time() -> None:
    """Indices follow from Philox's raw stream, whose values for seed 1 are written down here."""
    raw = np.random.Philox(1).random_raw(6)
    assert [int(value) for value in raw[:2]] == [1232279569898196538, 1457532264001425278]
    expected = [int(value) * 3 >> 64 for value in raw]  # floor(u n), u = raw / 2^64
    (block,) = list(draws(3, 2, seed=1))
    assert block.tolist() == [
        np.bincount(expected[:3], minlength=3).tolist(),
        np.bincount(expected[3:], minlength=3).tolist(),
    ]


def test_each_draw_has_n_samples_and_blocks_join() -> None:
    blocks = list(draws(5000, 3000))
    assert len(blocks) > 1
    assert sum(len(block) for block in blocks) == 3000
    for block in blocks:
        assert (block.sum(axis=1) == 5000).all()
    assert abs(np.mean([block.mean(axis=0).std() for block in blocks])) < 0.1


def test_one_sample_or_no_value_has_no_interval() -> None:
    one = Rows({"value": np.array([1.0])})
    assert paired_bootstrap(Mean(), one, one).difference is None
    (metric,) = resolve_metrics(["map50"], lambda _: pytest.fail("no import"))
    assert metric.rows is not None
    rows = metric.rows({"x": np.zeros((5, 1, 6))}, [np.empty((0, 5))] * 5)
    assert paired_bootstrap(metric.formula, rows, rows, resamples=200).first is None
    with pytest.raises(ValueError, match="not paired"):
        paired_bootstrap(Mean(), one, Rows({"value": np.zeros(2)}))
