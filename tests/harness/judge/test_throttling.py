"""The verdict on a pair against an oracle that knows the board's whole history, not its samples."""

from __future__ import annotations

import dataclasses
import random

import pytest

from harness.judge.rejected import clean_pairs, judged_blocks, rejected_pairs
from harness.judge.throttling import (
    clock_name,
    cool_down_s,
    most_frequent,
    pair_reasons,
    steady_clock,
    throttled,
    too_many_rejected,
)
from harness.record.figure import Network
from harness.record.timing import BlockRecord, SteadyClock, TelemetryRecord

F, Q = Network.FLOAT, Network.QUANTIZED
STEADY = {F: SteadyClock("", 1000.0), Q: SteadyClock("", 1000.0)}


def block(network: Network, pair: int, started_s: float, duration_s: float = 1.0) -> BlockRecord:
    return BlockRecord(network, pair, (10**6,) * 30, started_s, duration_s, 1, 0.1, 1)


def point(
    unix_s: float, clock_mhz: float | None = 1000.0, reasons: tuple[str, ...] = (), **more: float
) -> TelemetryRecord:
    return TelemetryRecord(unix_s, {}, {}, None, None, bool(reasons), clock_mhz, None, reasons, dict(more))


HALVES = (block(F, 0, 10.0), block(Q, 0, 11.1))


def test_a_quiet_board_rejects_nothing() -> None:
    assert pair_reasons(HALVES, [point(9.9 + 0.2 * k) for k in range(13)], STEADY) == ()
    assert pair_reasons(HALVES, [], STEADY) == ()
    assert pair_reasons(HALVES, [point(10.5, None)], {}) == ()


@pytest.mark.parametrize(
    ("at_s", "rejects"),
    [
        (9.9, False),  # before the pair
        (10.3, True),  # inside the first half
        (11.05, True),  # between the halves: of the stretch since 10.9
        (12.05, True),  # inside the second half
        (12.3, True),  # after it, but of the stretch since 12.05
    ],
)
def test_a_sample_speaks_of_the_time_since_the_one_before(at_s: float, rejects: bool) -> None:
    times = [9.7, 9.9, 10.1, 10.3, 10.5, 10.7, 10.9, 11.05, 11.3, 11.7, 12.05, 12.3]
    points = [point(t, reasons=("over-current",) if t == at_s else ()) for t in times]
    assert pair_reasons(HALVES, points, STEADY) == (("over-current",) if rejects else ())


def test_a_sample_long_after_speaks_only_of_what_it_covers() -> None:
    points = [point(9.9), *(point(10.1 + 0.2 * k) for k in range(11)), point(12.2), point(12.4, reasons=("late",))]
    assert pair_reasons(HALVES, points, STEADY) == ()


@pytest.mark.parametrize(("share", "rejects"), [(1.0, False), (0.975, False), (0.965, True), (0.5, True), (1.2, False)])
def test_the_median_clock_of_a_block_against_97_percent(share: float, rejects: bool) -> None:
    points = [point(10.0 + 0.2 * k, 1000.0 * (share if k < 6 else 1.0)) for k in range(11)]
    found = pair_reasons(HALVES, points, STEADY)
    assert bool(found) is rejects
    if rejects:
        assert found == (
            f"clock at {1000 * share:.0f} MHz in Floating-Point, {100 * share:.0f} % of the run's 1000 MHz",
        )
    # A single low reading in a block is no median.
    once = [point(10.0 + 0.2 * k, 500.0 if k == 2 else 1000.0) for k in range(11)]
    assert pair_reasons(HALVES, once, STEADY) == ()


def test_blocks_too_short_for_two_readings_are_judged_together() -> None:
    halves = (block(F, 0, 10.0, 0.1), block(Q, 0, 10.15, 0.1))
    assert pair_reasons(halves, [point(10.05, 600.0), point(10.2, 600.0)], STEADY) == (
        "clock at 600 MHz in the pair, 60 % of the run's 1000 MHz",
    )
    assert pair_reasons(halves, [point(10.05, 600.0)], STEADY) == ()


def test_a_reason_whose_figures_move_is_one_reason() -> None:
    points = [point(10.0 + 0.2 * k, reasons=(f"cpu at {92 + k / 10:.1f} °C",)) for k in range(10)]
    assert pair_reasons(HALVES, points, STEADY) == ("cpu at 92.0 °C",)
    silent = [dataclasses.replace(point(10.5), throttled=True)]
    assert pair_reasons(HALVES, silent, STEADY) == ("the board says that it is throttled",)


@pytest.mark.parametrize("seed", range(30))
def test_no_event_inside_a_pair_goes_unseen_and_none_far_from_it_counts(seed: int) -> None:
    """Events at known moments; a sampler of unsteady rhythm that counts since its last sample, as the agent's does."""
    rng = random.Random(seed)
    events = sorted(rng.uniform(0, 60) for _ in range(rng.randint(0, 6)))
    samples, last_s = [], 0.0
    while last_s < 62:
        now_s = last_s + rng.uniform(0.1, 0.4)
        happened = sum(last_s < at <= now_s for at in events)
        samples.append(point(now_s, reasons=(f"over-current ({happened} events)",) if happened else ()))
        last_s = now_s
    for pair in range(14):
        start = 1 + 4 * pair
        halves = (block(F, pair, start), block(Q, pair, start + 1.1))
        seen = bool(pair_reasons(halves, samples, {}))
        if any(half.started_unix_s <= at <= half.started_unix_s + 1.0 for at in events for half in halves):
            assert seen
        if seen:  # one interval of the sampler is the most that it is wrong by
            assert any(start - 0.4 <= at <= start + 2.1 + 0.4 for at in events)


def test_a_steady_clock_is_of_the_second_half_and_must_be_steady() -> None:
    ramp = [point(k * 0.1, 300.0 + 70 * k) for k in range(10)] + [point(1 + k * 0.1, 1000.0 + k % 2) for k in range(10)]
    assert steady_clock(ramp, "") == SteadyClock("", 1000.5)
    wanders = [point(k * 0.1, 800.0 if k % 2 else 2400.0) for k in range(20)]
    assert steady_clock(wanders, "") is None
    assert steady_clock([point(k * 0.1) for k in range(6)], "") is None  # three readings in the second half
    assert steady_clock([point(k * 0.1, None) for k in range(20)], "") is None
    assert steady_clock([point(k * 0.1, None, cpu=1500.0) for k in range(20)], "cpu") == SteadyClock("cpu", 1500.0)


def test_which_clock_is_watched() -> None:
    jetson = [point(0, 612.0, cpu=1497.0, gpu=612.0)]
    assert clock_name(jetson, on_cpu=False) == ""
    assert clock_name(jetson, on_cpu=True) == "cpu"
    assert clock_name([point(0, 1500.0, cpu=1500.0, arm=1499.9)], on_cpu=True) == "arm"
    assert clock_name([point(0, 1500.0)], on_cpu=True) == ""


@pytest.mark.parametrize(
    ("rejected", "pairs", "verdict"),
    [(4, 4, False), (5, 5, True), (5, 25, True), (5, 26, False), (8, 40, True), (7, 40, False)],
)
def test_a_fifth_and_at_least_five(rejected: int, pairs: int, verdict: bool) -> None:
    assert too_many_rejected(rejected, pairs) is verdict


def test_the_rest_doubles_and_ends_at_two_minutes() -> None:
    waited, pauses = 0.0, []
    for row in range(1, 15):
        pauses.append(cool_down_s(row, waited))
        waited += pauses[-1]
    assert pauses[:5] == [0.25, 0.5, 1, 2, 4]
    assert waited == 120
    assert pauses[-1] == 0


def table(bad: dict[int, tuple[str, ...]], pairs: int) -> list[BlockRecord]:
    return [
        dataclasses.replace(block(network, pair, 10.0 * pair), disturbed=bad.get(pair, ()))
        for pair in range(pairs)
        for network in (F, Q)
    ]


def test_what_counts_and_what_is_said_of_the_rest() -> None:
    bad = {1: ("clock at 600 MHz",), 3: ("clock at 500 MHz", "under-voltage"), 4: ("under-voltage",)}
    blocks = table(bad, 6)
    assert rejected_pairs(blocks) == bad
    assert [b.pair for b in clean_pairs(blocks)] == [0, 0, 2, 2, 5, 5]
    assert judged_blocks(blocks) == (clean_pairs(blocks), "")
    assert throttled(blocks) is None
    assert most_frequent(bad) == "clock at 600 MHz"
    # one half is enough
    (first, second, *_) = table({}, 1)
    assert clean_pairs([first, dataclasses.replace(second, disturbed=("x",))]) == []


def test_a_board_that_was_never_clean_is_published_as_throttled_and_not_empty() -> None:
    blocks = table(dict.fromkeys(range(8), ("over-current (3 events)",)), 9)
    why = throttled(blocks)
    assert why is not None
    assert why.startswith("8 of 9 pairs of blocks were rejected (over-current (3 events)); cool the board")
    assert "\n" not in why
    counted, note = judged_blocks(blocks)
    assert len(counted) == 18
    assert clean_pairs(counted) == counted
    assert "rejected pairs too" in note
    assert throttled(table({0: ("x",), 1: ("x",)}, 3)) is not None  # a budget ended it: too few for five, one is left
    assert throttled(table({0: ("x",)}, 3)) is None
