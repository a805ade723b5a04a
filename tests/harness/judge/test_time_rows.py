"""What the rows about time say: bounds, warm-up, sweeps, the stopping rule, the tail's ratio."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.judge.context import TargetContext
from harness.judge.stopping import Outcome
from harness.judge.time_rows import BOUNDS, RATIO_ROWS, TIME_ROWS, network_rows, ratio_rows
from harness.judge.timing import network_timing, not_warm, pair_ratios, speedup, stopped
from harness.record.figure import Figure, Network, Source
from harness.record.networks import Loading
from harness.record.timing import BlockRecord, StoppingRule

F, Q = Network.FLOAT, Network.QUANTIZED
CONTEXT = TargetContext("t", "generic", "cpu", Source.MEASURED)
RULE = StoppingRule(4, 0.015, 20)


def blocks(
    pairs: int, *, length: int = 400, spread: float = 0.005, batch: int = 1, rejected: tuple[int, ...] = ()
) -> list[BlockRecord]:
    rng = np.random.default_rng(2)
    made = []
    for pair in range(pairs):
        for network, ms in ((F, 3.0), (Q, 1.0)):
            ns = np.exp(rng.normal(math.log(ms * 1e6), 0.05, length) + rng.normal(0, spread)).astype(int)
            disturbed = ("hot",) if pair in rejected else ()
            made.append(
                BlockRecord(
                    network, pair, tuple(ns.tolist()), 0.0, ns.sum() / 1e9 + 0.01, batch, 0.1, 1, disturbed=disturbed
                )
            )
    return made


def loading(network: Network, *, steady: bool | None) -> Loading:
    return Loading(
        network, 1.0, 1.0, 1.0, None, False, "onnxruntime", "1", ("CPUExecutionProvider",),
        warm_up_iterations=500, warm_up_s=60.0, steady=steady,
    )  # fmt: skip


def rows_of(found: list[Figure]) -> dict[str, Figure]:
    return {row.metric: row for row in found}


def test_every_row_is_there_whatever_is_known() -> None:
    names = [name for name, _ in TIME_ROWS]
    timing = network_timing(blocks(8), F)
    assert [row.metric for row in network_rows(CONTEXT, F, timing, [])] == names
    assert [row.metric for row in network_rows(CONTEXT, F, None, [])] == names
    assert [row.metric for row in ratio_rows(CONTEXT, blocks(8), [], RULE)] == [name for name, _ in RATIO_ROWS]
    empty = ratio_rows(CONTEXT, [], [], None)
    assert [(row.value, row.note) for row in empty] == [(None, "not timed")] * 3


def test_a_bound_lies_above_its_percentile_and_says_what_it_rests_on() -> None:
    rows = rows_of(network_rows(CONTEXT, F, network_timing(blocks(8), F), []))
    for p in ("p90", "p95", "p99"):
        point, bound = rows[f"latency_{p}_ms"].value, rows[f"latency_{p}_bound_ms"].value
        assert point is not None
        assert bound is not None
        assert point < bound < 1.3 * point
    assert rows["latency_p999_bound_ms"].value is None
    assert "3,200 iterations; a bound on p99.9 takes 6,636" in rows["latency_p999_bound_ms"].note
    assert rows["latency_p999_ms"].value is None
    assert {name for name, _ in BOUNDS} < set(rows)


def test_not_warm_reaches_every_figure_of_time() -> None:
    cold = [loading(F, steady=False), loading(Q, steady=True)]
    assert not_warm(cold, F) == "not-warm: Floating-Point was not steady after 60 s of warm-up"
    assert not_warm(cold, Q) == not_warm([], F, Q) == not_warm([loading(F, steady=None)], F) == ""
    rows = rows_of(network_rows(CONTEXT, F, network_timing(blocks(8), F), cold))
    assert all("not-warm" in row.note for row in rows.values() if row.value is not None)
    assert rows["warm_up_s"].value is None
    assert "not-warm" in rows["warm_up_s"].note
    assert all("not-warm" in row.note for row in ratio_rows(CONTEXT, blocks(8), cold, RULE) if row.value is not None)
    warm = rows_of(network_rows(CONTEXT, Q, network_timing(blocks(8), Q), cold))
    assert warm["warm_up_s"].value == 60.0
    assert not any("not-warm" in row.note for row in warm.values())


def test_batches_count_samples_and_are_named() -> None:
    rows = rows_of(network_rows(CONTEXT, F, network_timing(blocks(8, batch=4), F), []))
    assert rows["fps"].value == pytest.approx(4 / 3.0e-3, rel=0.02)
    assert rows["latency_p50_ms"].value == pytest.approx(3.0, rel=0.02)  # of an inference, not of a sample
    assert "in batches of 4" in rows["latency_p50_ms"].note


def test_the_speed_up_says_how_the_rule_ended() -> None:
    reached = rows_of(ratio_rows(CONTEXT, blocks(8), [], RULE))["speedup"]
    assert "reached ±" in reached.note
    assert "after 8 pairs" in reached.note
    assert reached.n == 8
    wide = rows_of(ratio_rows(CONTEXT, blocks(40, spread=0.2), [], RULE))["speedup"]
    assert "inconclusive: cap of 40 pairs reached: ±" in wide.note
    assert "BCa" not in wide.note
    long = rows_of(ratio_rows(CONTEXT, blocks(80, spread=0.2), [], RULE))["speedup"]
    assert "BCa bootstrap: " in long.note  # 40 rounds carry a second opinion
    budget = dataclasses.replace(RULE, budget_s=9.0)
    for goal, said in ((0.003, "inconclusive: budget of 9 s bought 4 pairs"), (0.3, "; reached ±0.56 % after 4 pairs")):
        rule = dataclasses.replace(budget, first_stage=10, goal=goal)  # its first stage is not full
        assert said in rows_of(ratio_rows(CONTEXT, blocks(4), [], rule))["speedup"].note
    assert rows_of(ratio_rows(CONTEXT, blocks(8), [], None))["speedup"].note == "n: float/int8 pairs of blocks"


def test_rejected_pairs_do_not_count() -> None:
    made = blocks(10, rejected=(2, 5))
    assert set(pair_ratios(made)) == {0, 1, 3, 4, 6, 7, 8, 9}
    found = speedup(made, RULE)
    assert found is not None
    assert found.n == 8
    decision = stopped(made, RULE)
    assert (decision.pairs, decision.rejected, decision.outcome) == (8, 2, Outcome.REACHED)
    assert decision.text.endswith("2 rejected")


def test_the_tails_ratio_needs_blocks_that_carry_it() -> None:
    rows = rows_of(ratio_rows(CONTEXT, blocks(8, length=300), [], RULE))
    tail = rows["latency_p95_speedup"]
    assert tail.value == pytest.approx(3.0, rel=0.03)
    assert tail.ci_low is not None
    assert tail.ci_high is not None
    assert tail.ci_low < 3.0 < tail.ci_high
    assert rows["latency_p99_speedup"].value is None
    assert rows["latency_p99_speedup"].note == "a block is too short for its own p99"
