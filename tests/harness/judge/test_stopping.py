"""Stein's rule: its size by hand, its coverage by simulation, and what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.stopping import Outcome, decide, half_width, rounds, rounds_needed
from harness.record.timing import StoppingRule

RULE = StoppingRule(first_stage=6, goal=0.015, most_rounds=40)
T5 = 2.570581835636314  # t(.975, 5) from a printed table


def test_a_round_is_a_pair_in_either_order() -> None:
    assert rounds({0: 0.2, 1: 0.4, 2: 1.0, 3: 3.0, 4: 9.0}) == pytest.approx([0.3, 2.0])  # the fifth has no counterpart
    assert rounds({0: 0.2, 3: 0.4, 4: 1.0, 5: 3.0}) == pytest.approx([0.3, 2.0])  # 1 and 2 were rejected
    assert rounds({1: 0.2, 3: 0.4}) == []


def test_the_order_of_a_pair_weighs_nothing() -> None:
    # whoever runs first is 5 % slower: even pairs say +5 %, odd ones -5 %
    assert rounds({pair: 0.05 if pair % 2 == 0 else -0.05 for pair in range(12)}) == pytest.approx([0.0] * 6)


def test_the_second_stage_by_hand() -> None:
    first = [0.01, -0.01, 0.02, -0.02, 0.0, 0.0]  # s^2 = 0.001 / 5
    s = math.sqrt(0.001 / 5)
    assert rounds_needed(RULE, first[:3]) == 6
    assert rounds_needed(RULE, first) == math.ceil((T5 * s / 0.015) ** 2) == 6
    wide = [3 * one for one in first]
    assert rounds_needed(StoppingRule(6, 0.015, 99), wide) == math.ceil((3 * T5 * s / 0.015) ** 2) == 53
    assert rounds_needed(RULE, wide) == 40  # the cap
    assert half_width(first, 6) == pytest.approx(T5 * s / math.sqrt(6))


def test_the_interval_keeps_the_spread_of_the_first_stage() -> None:
    first = [0.02, -0.02, 0.02, -0.02, 0.02, -0.02]
    calm = [0.0] * 10  # what comes later cannot make it narrower than the first stage allows
    s = 0.02 * math.sqrt(6 / 5)
    assert half_width(first + calm, 6) == pytest.approx(T5 * s / 4)


def test_a_disturbance_after_the_first_stage_widens_it_and_timing_goes_on() -> None:
    calm = [0.001, -0.001] * 3
    assert decide(RULE, calm, 12).outcome is Outcome.REACHED
    burst = [*calm, 0.5]
    assert half_width(burst, 6) > 10 * half_width(calm, 6)
    # rounds that were there when the first stage was enough end it; on the way they do not
    assert rounds_needed(RULE, burst) == 40


def test_the_words_for_every_end() -> None:
    steady = [0.01, -0.01] * 3
    assert decide(RULE, steady, 12).text == "reached ±1.2 % after 12 pairs"
    assert decide(RULE, [], 0).outcome is Outcome.OPEN
    assert decide(RULE, [0.1], 2).text == "unfinished after 2 pairs: no interval, asked for ±1.5 %"
    noisy = [0.1, -0.1] * 20
    capped = decide(RULE, noisy, 81, 1)
    assert capped.outcome is Outcome.CAP
    assert capped.text == "cap of 80 pairs reached: ±4.6 %, asked for ±1.5 %, 1 rejected"
    early = decide(StoppingRule(6, 0.015, 40, 30.0), [0.1, 0.1001, 0.0999, 0.1], 8, time_is_over=True)
    assert early.outcome is Outcome.REACHED
    assert early.text.endswith(" after 8 pairs")  # asked for less than it got: nothing is missing
    budget = decide(StoppingRule(6, 0.015, 40, 30.0), noisy[:8], 16, time_is_over=True)
    assert budget.text.startswith("budget of 30 s bought 16 pairs: ±")


def test_a_board_that_is_always_disturbed_ends_as_throttled() -> None:
    # a fifth of the pairs and at least five: then `judge.throttling` calls the target throttled
    assert decide(RULE, [0.0] * 5, 15, 5).outcome is Outcome.OPEN
    assert decide(RULE, [], 17, 17).outcome is Outcome.DISTURBED
    for taken in range(12, 40):
        decision = decide(RULE, [0.0] * 5, taken, taken - 10)
        if decision.outcome is Outcome.DISTURBED:
            assert decision.rejected >= 5
            assert decision.rejected >= 0.2 * taken
            break
    else:
        pytest.fail("it never gives up")


@pytest.mark.parametrize("spread", [0.005, 0.03])
def test_coverage_is_kept_although_it_stops_early(spread: float) -> None:
    rng = np.random.default_rng(5)
    covered, runs = 0, 1500
    for _ in range(runs):
        logs = rng.normal(0, spread, 40).tolist()
        count = 6
        while (needed := rounds_needed(RULE, logs[:count])) > count:
            count = min(needed, 40) if count == 6 else count + 1
        covered += abs(float(np.mean(logs[:count]))) <= half_width(logs[:count], 6)
    assert 0.935 <= covered / runs <= 0.975
