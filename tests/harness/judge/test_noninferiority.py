"""Verdicts and sample sizes against published tables, a simulation at the margin, and limits worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.bootstrap import paired_bootstrap
from harness.judge.metrics import Rows
from harness.judge.metrics.metric import Mean
from harness.judge.noninferiority import (
    fewest_samples,
    non_inferiority,
    non_inferiority_resampled,
    sample_size_advice,
    samples_needed,
)
from harness.judge.statistics import tango


@pytest.mark.parametrize(
    ("margin", "share", "images"),
    [
        (0.01, 0.02, 1570),
        (0.01, 0.04, 3140),
        (0.01, 0.08, 6280),
        (0.005, 0.02, 6280),
        (0.005, 0.04, 12559),
        (0.005, 0.08, 25117),
    ],
)
def test_sample_sizes_are_those_of_the_published_table(margin: float, share: float, images: int) -> None:
    assert samples_needed(margin, share) == images


def test_a_true_loss_takes_more_and_one_at_the_margin_never_passes() -> None:
    assert samples_needed(0.01, 0.02, difference=0.005) == pytest.approx(4 * 1570, abs=4)
    with pytest.raises(ValueError, match="no number of samples"):
        samples_needed(0.01, 0.02, difference=0.01)


def test_the_upper_limit_of_the_loss_is_tangos() -> None:
    found = non_inferiority(12, 5, 1000, 0.01)
    assert found.upper == tango(12, 5, 1000).high
    assert found.loss == pytest.approx(0.007)
    assert found.verdict == "inconclusive"
    assert found.needed == samples_needed(0.01, 0.017)
    assert non_inferiority(12, 5, 10_000, 0.01).verdict == "pass"
    assert non_inferiority(90, 5, 1000, 0.01).verdict == "fail"


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.05])
def test_below_the_fewest_samples_nothing_passes(margin: float) -> None:
    fewest = fewest_samples(margin)
    assert non_inferiority(0, 0, fewest, margin).verdict == "pass"
    assert non_inferiority(0, 0, fewest - 1, margin).verdict == "inconclusive"


def test_at_the_margin_it_passes_at_most_as_often_as_it_says() -> None:
    """True loss 2 points = margin: 2.5 % may pass; of 4,000 that is 100 with a standard deviation of 10."""
    rng = np.random.default_rng(20)
    counts = rng.multinomial(1000, [0.05, 0.03, 0.92], size=4000)
    known: dict[tuple[int, int], bool] = {}
    for b, c, _ in counts.tolist():
        known.setdefault((b, c), non_inferiority(b, c, 1000, 0.02).verdict == "pass")
    passes = sum(known[b, c] for b, c, _ in counts.tolist())
    assert passes <= 130


def test_the_resampled_form_agrees_with_tango_on_right_and_wrong() -> None:
    first, second = np.ones(2000), np.ones(2000)
    second[:30], first[30:40] = 0, 0
    drawn = paired_bootstrap(Mean(), Rows({"value": first}), Rows({"value": second}), resamples=4000)
    found = non_inferiority_resampled(drawn, first.mean(), second.mean(), 0.02)
    exact = non_inferiority(30, 10, 2000, 0.02)
    assert (found.verdict, exact.verdict) == ("pass", "pass")
    assert found.upper == pytest.approx(exact.upper, abs=0.001)
    assert found.loss == pytest.approx(exact.loss)
    worse = non_inferiority_resampled(drawn, first.mean(), second.mean(), 0.02, higher_is_better=False)
    assert worse.loss == -found.loss


def test_advice_speaks_only_where_samples_are_missing() -> None:
    advice = sample_size_advice(0.01, 400)
    assert advice is not None
    assert "needs 1,570 samples" in advice
    assert "you have 400: expect inconclusive" in advice
    assert "at best inconclusive" in (sample_size_advice(0.01, 380) or "")
    assert sample_size_advice(0.01, 1570) is None


@pytest.mark.parametrize("margin", [0.0, -0.01, math.nan, math.inf])
def test_a_margin_is_positive(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(1, 1, 10, margin)
