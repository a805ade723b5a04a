"""MLPerf's early stopping against its published sizes, the binomial, and simulations with dependence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.judge.statistics_bootstrap import bca_geometric_mean
from harness.judge.statistics_tail import design_effect, discardable, least_n, tail_bound


@pytest.mark.parametrize(("p", "n"), [(0.90, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_the_least_n_are_the_published_ones(p: float, n: int) -> None:
    assert least_n(p) == n
    assert discardable(n - 1, p) is None


@given(st.integers(64, 5000))
@settings(max_examples=40, deadline=None)
def test_what_may_be_discarded_is_a_binomial_quantile(n: int) -> None:
    t = discardable(n, 0.9)
    assert t is not None
    whole = int(t + 1e-6)
    # I(p; n - t, t + 1) is the probability that at most t of n latencies exceed the quantile
    assert stats.binom.cdf(whole, n, 0.1) <= 0.01 + 1e-9
    assert stats.binom.cdf(whole + 1, n, 0.1) > 0.01


def test_the_bound_of_the_least_n_is_the_maximum() -> None:
    samples = np.random.default_rng(3).permutation(np.arange(1.0, 65.0))
    assert tail_bound([samples], 0.9).value == 64.0
    short = tail_bound([samples[:63]], 0.9)
    assert (short.value, short.least_n) == (None, 64)


def test_blocks_that_differ_count_for_less() -> None:
    rng = np.random.default_rng(8)
    same = list(rng.normal(10, 1, (20, 200)))
    assert design_effect(same, 0.9) == 1.0
    apart = [block + shift for block, shift in zip(same, rng.normal(0, 3, 20), strict=True)]
    assert design_effect(apart, 0.9) > 20
    assert tail_bound(apart, 0.9).effective_n < 200
    assert tail_bound(apart, 0.99).value is None  # 4,000 latencies, and not one may be discarded


def test_the_bound_holds_where_iterations_depend_on_each_other() -> None:
    rng = np.random.default_rng(9)
    runs = missed = plain = 0
    for _ in range(150):
        x = np.empty((20, 150))
        x[:, 0] = rng.normal(size=20)
        for i in range(1, 150):
            x[:, i] = 0.95 * x[:, i - 1] + np.sqrt(1 - 0.95**2) * rng.normal(size=20)
        truth = float(stats.norm.ppf(0.9))
        bound = tail_bound(list(x), 0.9)
        runs += bound.value is not None
        missed += bound.value is not None and bound.value < truth
        as_if = tail_bound([x.ravel()], 0.9).value
        plain += as_if is not None and as_if < truth
    assert missed <= 5
    assert plain >= 15  # the bound that takes them for independent misses far more often than its 1 %


def test_the_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).lognormal(0.3, 0.2, 20)
    ours = bca_geometric_mean(values.tolist())
    theirs = stats.bootstrap((np.log(values),), np.mean, n_resamples=10_000, method="BCa", rng=2).confidence_interval
    assert ours is not None
    assert ours.low == pytest.approx(np.exp(theirs.low), rel=0.01)
    assert ours.high == pytest.approx(np.exp(theirs.high), rel=0.01)
    assert bca_geometric_mean([2.0] * 20) is None
    assert bca_geometric_mean(values[:9].tolist()) is None
