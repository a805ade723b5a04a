from __future__ import annotations

import itertools
import time

import pytest

from agents.protocol import agent_pb2 as pb
from agents.timing import warm_up, with_defaults
from harness.record.figure import Network
from harness.record.timing import BlockRecord
from harness.runs.budget import LEAST_S, Budget
from harness.runs.profile import PROFILES, QUICK, STANDARD, Profile
from harness.targets.values import WarmUp


def warm(iteration_s: float) -> WarmUp:
    return WarmUp(steady=True, iterations=100, duration_s=100 * iteration_s, first_ms=1.0)


def test_without_a_budget_nothing_changes() -> None:
    budget = Budget.after(None, [])
    assert budget.deadline is None
    assert budget.for_warm_up(STANDARD) is STANDARD
    assert budget.for_blocks(STANDARD, [warm(0.01)] * 2) is STANDARD


def test_warm_up_leaves_three_quarters_to_the_blocks() -> None:
    profile = Budget.after(40, []).for_warm_up(STANDARD)
    assert 2 * profile.warm_up_cap_s == pytest.approx(10, rel=0.01)
    assert 3 * profile.warm_up_window_s <= profile.warm_up_cap_s  # three windows must fit, or nothing is ever steady
    assert Budget.after(10_000, []).for_warm_up(STANDARD) == STANDARD


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("budget_s", [2, 4, 5, 12, 16, 20, 24, 40, 60, 100, 600])
def test_a_steady_network_is_warm_within_any_budget(
    profile: Profile, budget_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board's own warm-up, on a clock that every inference moves by the same."""
    least = Budget.after(budget_s, []).for_warm_up(profile)
    inference_s = min(budget_s, 20) / 1000
    clock = itertools.count(1)
    now_s = [0.0]

    def infer() -> None:
        now_s[0] = next(clock) * inference_s

    monkeypatch.setattr("agents.timing.time.perf_counter", lambda: now_s[0])
    monkeypatch.setattr("agents.timing.time.perf_counter_ns", lambda: round(now_s[0] * 1e9))
    request = pb.WarmUpRequest(
        min_duration_s=least.warm_up_s,
        max_duration_s=least.warm_up_cap_s,
        window_s=least.warm_up_window_s,
        tolerance=least.warm_up_tolerance,
    )
    reply = warm_up(infer, with_defaults(request))
    assert reply.steady
    assert reply.duration_s <= least.warm_up_cap_s <= budget_s / 8 + 1e-9


def test_a_first_stage_that_does_not_fit_gets_shorter_blocks_before_fewer_pairs() -> None:
    began = time.monotonic()
    shorter = Budget.after(12, []).for_blocks(STANDARD, [warm(0.001), warm(0.001)])
    assert time.monotonic() - began < 1
    assert shorter.min_pairs == STANDARD.min_pairs
    assert 0.2 < shorter.block_s < 0.6
    assert shorter.min_pairs * shorter.pair_s((0.001, 0.001)) <= 12
    slow = Budget.after(12, []).for_blocks(STANDARD, [warm(0.05), warm(0.02)])  # 30 inferences take 1.5 s and 0.6 s
    assert slow.min_pairs == 4
    hopeless = Budget.after(12, []).for_blocks(STANDARD, [warm(5), warm(5)])
    assert hopeless.min_pairs == 4  # two rounds: with fewer there is no interval at all
    assert hopeless.block_iterations == STANDARD.block_iterations


def test_a_resumed_run_goes_on_with_what_is_left() -> None:
    blocks = [BlockRecord(Network.FLOAT, pair, (1,), 0.0, 3.0, 1, 0.0, 0) for pair in range(4)]
    now = time.monotonic()
    left = Budget.after(20, blocks).deadline
    assert left is not None
    assert left - now == pytest.approx(8, abs=0.5)
    spent = Budget.after(10, blocks).deadline
    assert spent is not None
    assert spent - now == pytest.approx(LEAST_S, abs=0.5)


def test_profiles_are_made_of_whole_rounds() -> None:
    for profile in PROFILES.values():
        rule = profile.rule(60.0)
        assert (2 * rule.first_stage, 2 * rule.most_rounds) == (profile.min_pairs, profile.max_pairs)
        assert rule.budget_s == 60.0
    assert (STANDARD.half_width, STANDARD.max_pairs) == (0.015, 80)
    assert QUICK.min_pairs * 2 * QUICK.block_s < 5
