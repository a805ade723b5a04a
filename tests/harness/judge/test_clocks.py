"""Which clock timed a block, and networks that are too fast for it."""

from __future__ import annotations

import itertools
import time

import pytest

from agents.timing import clock_tick_ns
from harness.judge.clocks import clock_too_coarse, describe_clock
from harness.record.figure import Network
from harness.record.timing import BlockRecord


def block(latency_ns: int, tick_ns: float | None, resolution_ns: float | None = 1.0) -> BlockRecord:
    return BlockRecord(
        Network.FLOAT, 0, (latency_ns,) * 5, 0.0, 1.0, 1, 0.1, 1,
        clock="perf_counter: CLOCK_MONOTONIC", clock_resolution_ns=resolution_ns, clock_tick_ns=tick_ns,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("latency_ns", "tick_ns", "resolution_ns", "refused"),
    [
        (1_000, 30, 1, False),
        (299, 30, 1, True),
        (300, 30, 1, False),
        (100_000, None, 15_625_000, True),  # a clock of 64 Hz
        (99, None, None, False),  # an older agent's block: nothing is known of its clock
    ],
)
def test_ten_steps_are_the_least(latency_ns: int, tick_ns: float, resolution_ns: float, refused: bool) -> None:
    why = clock_too_coarse(block(latency_ns, tick_ns, resolution_ns))
    assert (why is not None) is refused
    assert why is None or "larger batch" in why


def test_what_is_said_of_the_clock() -> None:
    assert describe_clock([block(60_000, 30)]) == (
        "timed by perf_counter: CLOCK_MONOTONIC, resolution 1 ns, "
        "smallest step seen 30 ns, 0.05 % of the shortest median latency"
    )
    assert describe_clock([BlockRecord(Network.FLOAT, 0, (1,), 0.0, 1.0, 1, 0.1, 1)]) == ""


def test_the_step_is_what_two_readings_in_a_row_differ_by() -> None:
    steps = [b - a for a, b in itertools.pairwise([time.perf_counter_ns() for _ in range(20_000)])]
    least = min(step for step in steps if step > 0)
    assert time.get_clock_info("perf_counter").resolution * 1e9 <= clock_tick_ns()
    assert least / 5 <= clock_tick_ns() <= least * 5
