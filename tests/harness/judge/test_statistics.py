"""Intervals against statsmodels, closed forms, numerical likelihoods and seeded simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from harness.judge.statistics import (
    geometric_mean,
    mcnemar_exact,
    mean_interval,
    paired_log_ratio,
    quantile,
    quantile_ranks,
    sectioned_interval,
    tango,
    wilson,
)

Z = 1.959963984540054


@pytest.mark.parametrize(("right", "n"), [(0, 10), (4, 4), (81, 263), (399, 400), (400, 400)])
def test_wilson_equals_statsmodels(right: int, n: int) -> None:
    low, high = proportion_confint(right, n, method="wilson")
    interval = wilson(right, n)
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)


def test_wilson_of_four_out_of_four_is_the_published_warning() -> None:
    assert wilson(4, 4).low == pytest.approx(0.51, abs=0.005)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    expected = mcnemar([[50, b], [c, 20]], exact=True).pvalue
    assert mcnemar_exact(b, c) == pytest.approx(1.0 if math.isnan(expected) else expected, abs=1e-12)


def score_statistic(b: int, c: int, n: int, difference: float) -> float:
    """Tango's statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def minus_log_likelihood(q: float) -> float:
        cells = ((b, q + difference), (c, q), (n - b - c, 1 - 2 * q - difference))
        return -sum(count * math.log(p) for count, p in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low + 1e-13, high - 1e-13), method="bounded", options={"xatol": 1e-14}
    ).x
    return (b - c - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 5, 400), (1, 9, 100), (20, 40, 160), (3, 3, 50), (7, 1, 30)])
def test_tango_limits_are_the_roots_of_the_score_statistic(b: int, c: int, n: int) -> None:
    interval = tango(b, c, n)
    assert score_statistic(b, c, n, interval.low) == pytest.approx(Z, abs=1e-4)
    assert score_statistic(b, c, n, interval.high) == pytest.approx(-Z, abs=1e-4)


@pytest.mark.parametrize("n", [10, 400])
def test_tango_without_discordant_pairs_has_a_closed_form(n: int) -> None:
    interval = tango(0, 0, n)
    assert interval.high == pytest.approx(Z**2 / (n + Z**2), abs=1e-9)
    assert interval.low == pytest.approx(-(Z**2) / (n + Z**2), abs=1e-9)


def test_tango_with_every_pair_discordant_has_a_closed_form() -> None:
    interval = tango(50, 0, 50)
    assert interval.high == 1
    assert interval.low == pytest.approx((50 - Z**2) / (50 + Z**2), abs=1e-9)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_tango_is_antisymmetric_and_holds_the_estimate(n: int, share: float, split: float) -> None:
    b = int(n * share * split)
    c = int(n * share) - b
    interval, mirrored = tango(b, c, n), tango(c, b, n)
    assert -1 <= interval.low <= (b - c) / n <= interval.high <= 1
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)


def test_tango_keeps_its_type_one_error_at_the_margin_and_its_coverage() -> None:
    # Truth exactly at a margin of one point: the upper 97.5 % limit may fall below it in about 2.5 % of runs.
    n, p_float_only, p_int8_only, margin = 1500, 0.03, 0.02, 0.01
    draws = np.random.default_rng(2024).multinomial(n, [p_float_only, p_int8_only, 0.95], size=2000)
    limits = {(b, c): tango(int(b), int(c), n) for b, c in {(int(b), int(c)) for b, c, _ in draws}}
    intervals = [limits[int(b), int(c)] for b, c, _ in draws]
    accepted = np.mean([interval.high < margin for interval in intervals])
    covered = np.mean([interval.low <= margin <= interval.high for interval in intervals])
    assert 0.015 <= accepted <= 0.035
    assert 0.935 <= covered <= 0.965


@pytest.mark.parametrize("counts", [(1, 1, 1), (-1, 0, 5), (0, 0, 0)])
def test_tango_refuses_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        tango(*counts)


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])  # mean 2, s 1, t(.975, 2) = 4.302653
    assert interval is not None
    assert interval.high == pytest.approx(2 + 4.302652729911275 / math.sqrt(3))
    assert mean_interval([1.0]) is None


def test_paired_log_ratio_by_hand() -> None:
    ratio = paired_log_ratio([2.0, 8.0], [1.0, 2.0])  # d = -ln 2, -ln 4
    assert ratio.value == pytest.approx(2**-1.5)
    half = 12.706204736432095 * (math.log(2) / math.sqrt(2)) / math.sqrt(2)
    assert math.log(ratio.high / ratio.low) / 2 == pytest.approx(half)
    assert ratio.n == 2
    with pytest.raises(ValueError, match="two pairs"):
        paired_log_ratio([1.0], [1.0])
    with pytest.raises(ValueError, match="unpaired"):
        paired_log_ratio([1.0, 2.0], [1.0])


def test_abba_cancels_a_linear_drift_that_biases_the_sequential_order() -> None:
    rng = np.random.default_rng(7)
    blocks, truth, covered, sequential = 20, 0.5, 0, []
    for _ in range(1000):
        time = np.linspace(0, 0.1, 2 * blocks)  # 10 % slower at the end of the run
        noise = np.exp(rng.normal(0, 0.01, 2 * blocks))
        first = np.array([2 * b if b % 2 == 0 else 2 * b + 1 for b in range(blocks)])
        second = np.array([2 * b + 1 if b % 2 == 0 else 2 * b for b in range(blocks)])
        ratio = paired_log_ratio((1 + time[first]) * noise[first], truth * (1 + time[second]) * noise[second])
        covered += ratio.low <= truth <= ratio.high
        drifted = (1 + time) * noise
        sequential.append(paired_log_ratio(drifted[:blocks], truth * drifted[blocks:]).value)
    assert 0.93 <= covered / 1000 <= 0.97
    assert np.mean(sequential) == pytest.approx(0.525, abs=0.003)


@pytest.mark.parametrize(
    ("n", "p", "ranks"), [(1000, 0.99, (983, 997)), (300, 0.99, None), (5, 0.5, None), (6, 0.5, (1, 6)), (0, 0.5, None)]
)
def test_quantile_ranks(n: int, p: float, ranks: tuple[int, int] | None) -> None:
    assert quantile_ranks(n, p) == ranks


def test_quantile_of_a_known_sample() -> None:
    samples = np.random.default_rng(1).permutation(np.arange(1.0, 1001.0))
    tail = quantile(samples, 0.99)
    assert tail is not None
    assert (tail.value, tail.interval.low, tail.interval.high) == (990.0, 983.0, 997.0)
    middle = quantile(samples, 0.5)
    assert middle is not None
    assert middle.value == pytest.approx(500.5, abs=1e-6)  # Harrell-Davis of a symmetric sample is its centre
    assert quantile(samples[:300], 0.99) is None


def test_sectioned_interval_covers_where_the_iid_one_does_not() -> None:
    rng = np.random.default_rng(11)
    runs, blocks, length, rho = 200, 10, 60, 0.9
    sectioned = iid = 0
    for _ in range(runs):
        series = np.empty((blocks, length))
        series[:, 0] = rng.normal(size=blocks)
        for i in range(1, length):
            series[:, i] = rho * series[:, i - 1] + math.sqrt(1 - rho**2) * rng.normal(size=blocks)
        latency = np.exp(0.05 * series)  # true median 1
        overall = quantile(latency, 0.5)
        assert overall is not None
        iid += overall.interval.low <= 1 <= overall.interval.high
        interval = sectioned_interval(list(latency), 0.5, overall.value)
        assert interval is not None
        sectioned += interval.low <= 1 <= interval.high
    assert sectioned / runs >= 0.90
    assert iid / runs <= 0.60


def test_sectioned_interval_says_nothing_it_cannot() -> None:
    block = np.arange(1.0, 31.0)
    assert sectioned_interval([block], 0.5, 15.5) is None
    assert sectioned_interval([block, block], 0.99, 30.0) is None
    same = sectioned_interval([block, block], 0.5, 15.5)
    assert same is not None
    assert same.low == pytest.approx(15.5, rel=1e-6)


def test_geometric_mean_refuses_what_has_no_logarithm() -> None:
    assert geometric_mean([4.0, 9.0]).value == pytest.approx(6.0)
    for bad in ([], [1.0, 0.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(bad)
