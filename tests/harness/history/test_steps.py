"""Steps: with known truth, against closed forms, and what must not be called a step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.history.noise import LEAST_SHARE, Noise, around_levels, first_guess
from harness.history.steps import CONFIRMED_AFTER, find_steps

LEAST = 0.015


def quiet(seed: int, nights: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.005, 0.0075, nights)
    return 1.0 + rng.normal(scale=0.005, size=nights) + rng.normal(size=nights) * errors, errors


def test_a_clear_step_is_found_at_its_place_with_an_interval_that_holds_it() -> None:
    values, errors = quiet(3)
    values[25:] += 0.06
    found = find_steps(values, errors, least_change=LEAST)
    (step,) = found.steps
    assert step.index == 25
    assert step.interval[0] < 0.06 < step.interval[1]
    assert step.p < 1e-6
    assert step.nights == 15
    assert (step.earliest, step.latest) == (25, 25)
    assert [(level.start, level.stop) for level in found.levels] == [(0, 25), (25, 40)]


def test_one_night_is_suspected_and_two_are_a_step() -> None:
    values, errors = quiet(4, 30)
    values[28:] += 0.05
    once = find_steps(values[:29], errors[:29], least_change=LEAST)
    assert not once.steps
    assert once.suspected == pytest.approx(0.05, abs=0.02)
    twice = find_steps(values, errors, least_change=LEAST)
    assert [step.index for step in twice.steps] == [28]
    assert twice.suspected is None


def test_a_lone_bad_night_is_no_step() -> None:
    values, errors = quiet(5, 40)
    values[30] += 0.06
    for seen in range(31, 41):
        assert not find_steps(values[:seen], errors[:seen], least_change=LEAST).steps, seen


def test_a_step_below_what_matters_is_none_however_certain() -> None:
    errors = np.full(40, 1e-5)
    values = np.where(np.arange(40) < 20, 0.0, 0.01)
    assert not find_steps(values, errors, least_change=0.015).steps
    assert [step.index for step in find_steps(values, errors, least_change=0.005).steps] == [20]


def test_an_exact_series_shows_a_single_sample() -> None:
    """400 samples, one of which changes sides for good."""
    values = np.array([0.9725] * 10 + [0.97] * 2)
    (step,) = find_steps(values, np.zeros(12), least_change=0.5 / 400).steps
    assert step.index == 10
    assert step.change == pytest.approx(-1 / 400)


def test_where_the_machine_changed_the_step_is_its_own_and_its_place_certain() -> None:
    values, errors = quiet(6)
    values[20:] -= 0.05
    regimes = [0] * 20 + [1] * 20
    (step,) = find_steps(values, errors, regimes, least_change=LEAST).steps
    assert step.at_regime
    assert (step.index, step.earliest, step.latest) == (20, 20, 20)


def test_a_machine_change_without_effect_is_no_step() -> None:
    values, errors = quiet(7)
    found = find_steps(values, errors, [0] * 20 + [1] * 20, least_change=LEAST)
    assert not found.steps
    assert [(level.start, level.stop) for level in found.levels] == [(0, 20), (20, 40)]


def test_a_step_next_to_a_machine_change_is_not_the_machines() -> None:
    values, errors = quiet(8)
    values[24:] += 0.05
    steps = find_steps(values, errors, [0] * 20 + [1] * 20, least_change=LEAST).steps
    assert [(step.index, step.at_regime) for step in steps] == [(24, False)]


def test_the_p_value_is_students_of_the_two_levels() -> None:
    from scipy import stats

    values, errors = quiet(9)
    values[20:] += 0.04
    found = find_steps(values, errors, least_change=LEAST)
    (step,), noise = found.steps, found.noise
    old, new = noise.level(values[:20], errors[:20]), noise.level(values[20:], errors[20:])
    z = (new[0] - old[0]) / math.hypot(old[1], new[1])
    assert step.p == pytest.approx(2 * stats.t.sf(abs(z), noise.freedom), rel=1e-6)
    half = stats.t.ppf(0.975, noise.freedom) * math.hypot(old[1], new[1])
    assert step.interval == pytest.approx((step.change - half, step.change + half))


def test_the_mean_of_correlated_nights_has_the_variance_of_ar1() -> None:
    """Against the sum over the covariance matrix."""
    noise = Noise(0.01, 0.4, 20.0)
    for nights in (1, 2, 5, 12):
        lags = np.abs(np.subtract.outer(np.arange(nights), np.arange(nights)))
        exact = (0.4**lags).sum() / nights**2
        assert noise.inflation(nights) / nights == pytest.approx(exact)


def test_the_noise_of_a_long_series_is_what_made_it() -> None:
    rng = np.random.default_rng(11)
    errors = np.full(4000, 0.006)
    values = rng.normal(scale=0.02, size=4000) + rng.normal(size=4000) * errors
    for noise in (around_levels(values, errors, [0, 4000], 0.005), first_guess(values, errors, 0.005)):
        assert noise.tau == pytest.approx(0.02, rel=0.08)
    assert around_levels(values, errors, [0, 4000], 0.005).correlation < 0.05


def test_correlation_of_a_long_series_is_seen() -> None:
    rng = np.random.default_rng(12)
    values = np.zeros(3000)
    for night in range(1, 3000):
        values[night] = 0.6 * values[night - 1] + rng.normal(scale=0.01)
    assert around_levels(values, np.zeros(3000), [0, 3000], 0.005).correlation == pytest.approx(0.6, abs=0.07)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=30),
    st.floats(0.5, 2.0),
    st.booleans(),
)
def test_levels_cover_every_night_and_nothing_depends_on_sign_or_unit(
    values: list[float], factor: float, machine: bool
) -> None:
    errors = [0.006] * len(values)
    regimes = [int(machine and i >= len(values) // 2) for i in range(len(values))]
    found = find_steps(values, errors, regimes, least_change=LEAST)
    assert found.levels[0].start == 0
    assert found.levels[-1].stop == len(values)
    assert all(a.stop == b.start for a, b in zip(found.levels, found.levels[1:], strict=False))
    assert all(step.nights >= CONFIRMED_AFTER and abs(step.change) >= LEAST for step in found.steps)
    assert found.noise.tau >= LEAST_SHARE * LEAST / 3 * (1 - 1e-12)
    turned = find_steps([-value for value in values], errors, regimes, least_change=LEAST)
    assert [step.index for step in turned.steps] == [step.index for step in found.steps]
    scaled = find_steps(
        [factor * value for value in values], [0.006 * factor] * len(values), regimes, least_change=factor * LEAST
    )
    assert scaled.noise.tau == pytest.approx(factor * found.noise.tau)


@pytest.mark.parametrize(
    ("values", "errors", "regimes"),
    [([], [], None), ([1.0], [0.1, 0.1], None), ([1.0, math.nan], [0.1, 0.1], None), ([1.0], [-0.1], None),
     ([1.0, 2.0], [0.0, 0.0], [0])],
)  # fmt: skip
def test_what_is_no_series_is_refused(values: list[float], errors: list[float], regimes: list[int] | None) -> None:
    with pytest.raises(ValueError, match=r"series|finite"):
        find_steps(values, errors, regimes, least_change=LEAST)
