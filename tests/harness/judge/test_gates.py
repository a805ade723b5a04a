"""Gates: decided by interval ends, on the figures they name, with what would settle them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from harness.judge.gates import decide_gates
from harness.judge.gates_values import Gate, Override, Place, Scope
from harness.judge.statistics import tango, wilson
from harness.record.figure import Figure, Network, Source
from harness.record.gates import GateResult, Outcome, Rule, worst_outcome
from harness.record.networks import Loading
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord, StoppingRule

BOARD = TargetRecord("rpi", "raspberry-pi-5", "cpu", "address", Source.MEASURED, "done", tags=("dotprod",))


def figure(
    metric: str,
    value: float | None,
    interval: tuple[float, float] | None = None,
    *,
    unit: str = "x",
    network: Network = Network.RATIO,
    source: Source = Source.MEASURED,
    n: int | None = 20,
    note: str = "",
) -> Figure:
    low, high = interval or (None, None)
    return Figure(
        "rpi", "raspberry-pi-5", "cpu", network, "", metric, value, unit, source, low, high, n, note
    )  # fmt: skip


def gate(rule: Rule, threshold: float, metric: str = "speedup", unit: str = "x") -> Gate:
    pair = metric in {"speedup", "accuracy_top1"}
    return Gate(metric, metric, rule, threshold, unit, Network.RATIO if pair else Network.QUANTIZED)


def decide(asked: Gate, *figures: Figure, target: TargetRecord = BOARD) -> GateResult:
    (result,) = decide_gates([asked], [target], figures)
    return result


@given(
    value=st.floats(0.1, 10), below=st.floats(0, 3), above=st.floats(0, 3), threshold=st.floats(0.05, 15),
    rule=st.sampled_from([Rule.AT_LEAST, Rule.AT_MOST]),
)  # fmt: skip
def test_only_a_whole_interval_decides(value: float, below: float, above: float, threshold: float, rule: Rule) -> None:
    low, high = value / (1 + below), value * (1 + above)
    result = decide(gate(rule, threshold), figure("speedup", value, (low, high)))
    inside = np.linspace(low, high, 101)
    good = inside >= threshold if rule is Rule.AT_LEAST else inside <= threshold
    if good.all():
        assert result.outcome is Outcome.PASS
    elif not good.any():
        assert result.outcome is Outcome.FAIL
    else:
        assert result.outcome is Outcome.INCONCLUSIVE
        assert result.detail


@pytest.mark.parametrize(("float_only", "int8_only", "n"), [(3, 2, 3000), (40, 2, 400), (6, 4, 400), (0, 0, 4)])
def test_non_inferiority_is_the_upper_limit_of_the_loss(float_only: int, int8_only: int, n: int) -> None:
    margin = 0.01
    own = tango(int8_only, float_only, n)
    delta = (int8_only - float_only) / n
    row = figure("accuracy_top1_delta", delta, (own.low, own.high), unit="fraction", n=n)
    result = decide(gate(Rule.NON_INFERIOR, margin, "accuracy_top1", "fraction"), row)
    loss = tango(float_only, int8_only, n)  # the same interval seen from the other side
    expected = "pass" if loss.high < margin else "fail" if loss.low >= margin else "inconclusive"
    assert result.outcome == expected
    assert result.value == delta


def test_a_margin_of_one_point_at_two_percent_discordance_takes_1570_samples() -> None:
    n, discordant = 400, 8
    own = tango(discordant // 2, discordant // 2, n)
    row = figure("accuracy_top1_delta", 0.0, (own.low, own.high), unit="fraction", n=n)
    result = decide(gate(Rule.NON_INFERIOR, 0.01, "accuracy_top1", "fraction"), row)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert result.detail == "about 1,570 samples needed (power 80 %), 400 given"


@pytest.mark.parametrize(("float_only", "int8_only"), [(0, 0), (5, 0), (0, 7), (11, 8), (60, 55)])
def test_advice_rests_on_the_discordant_pairs_that_made_the_interval(float_only: int, int8_only: int) -> None:
    n, margin = 1_000, 0.02
    own = tango(int8_only, float_only, n)
    row = figure("accuracy_top1_delta", (int8_only - float_only) / n, (own.low, own.high), unit="fraction", n=n)
    result = decide(gate(Rule.NON_INFERIOR, margin, "accuracy_top1", "fraction"), row)
    loss, share = (float_only - int8_only) / n, (float_only + int8_only) / n
    assert (result.outcome is Outcome.PASS) == (-own.low < margin)
    if result.outcome is Outcome.INCONCLUSIVE:
        z = norm.ppf(0.975) + norm.ppf(0.8)
        needed = int(result.detail.split()[1].replace(",", ""))
        assert needed == pytest.approx(z * z * share / (margin - loss) ** 2, abs=1.01)


def test_four_samples_need_hundreds() -> None:
    own = tango(0, 0, 4)
    row = figure("accuracy_top1_delta", 0.0, (own.low, own.high), unit="fraction", n=4)
    result = decide(gate(Rule.NON_INFERIOR, 0.01, "accuracy_top1", "fraction"), row)
    # without one discordant pair Tango's limit is z^2 / (n + z^2): below 1 % from n = 381 on
    assert result.detail == "about 381 samples needed (power 80 %), 4 given"


def test_a_loss_at_the_margin_is_not_promised_away() -> None:
    row = figure("accuracy_top1_delta", -0.012, (-0.03, 0.006), unit="fraction", n=400)
    result = decide(gate(Rule.NON_INFERIOR, 0.01, "accuracy_top1", "fraction"), row)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "rather show a fail" in result.detail


def test_where_less_is_better_a_rise_is_the_loss() -> None:
    asked = replace(gate(Rule.NON_INFERIOR, 0.5, "accuracy_top1", ""), metric="mse", higher_is_better=False)
    for delta, interval, outcome in (
        (0.1, (0.0, 0.3), "pass"),
        (-3.0, (-4.0, -2.0), "pass"),
        (2.0, (1.0, 3.0), "fail"),
    ):
        assert decide(asked, figure("mse_delta", delta, interval, unit="")).outcome == outcome


def test_more_pairs_settle_a_speedup_as_often_as_said() -> None:
    """The number of pairs that is advised decides the gate in about 80 of 100 repetitions at the figure as it is."""
    rng = np.random.default_rng(7)
    spread, threshold, n = 0.03, 1.0, 10
    half = 2.262 * spread / math.sqrt(n)
    value = math.exp(0.012)
    row = figure("speedup", value, (value * math.exp(-half), value * math.exp(half)), n=n)
    result = decide(gate(Rule.AT_LEAST, threshold), row)
    assert result.outcome is Outcome.INCONCLUSIVE
    total = n + int(result.detail.split()[1])
    logs = rng.normal(0.012, spread, (4_000, total))
    lower = logs.mean(axis=1) - 1.96 * logs.std(axis=1, ddof=1) / math.sqrt(total)
    # t at n = 10 is wider than the normal quantile: the advice is on the safe side
    assert 0.8 <= float((lower >= 0).mean()) <= 0.95


@pytest.mark.parametrize(("half", "beyond"), [(0.04, False), (0.2, True)])
def test_more_pairs_than_the_profile_takes_are_said_to_be(half: float, beyond: bool) -> None:
    rows = figure("speedup", 1.3, (1.3 * math.exp(-half), 1.3 * math.exp(half)), n=36)
    board = replace(BOARD, stopping=StoppingRule(6, 0.015, 40))
    detail = decide(gate(Rule.AT_LEAST, 1.25), rows, target=board).detail
    assert "more pairs (power 80 %), 36 given" in detail
    assert ("this profile ends at 80" in detail) is beyond


def test_a_proportion_is_planned_in_samples() -> None:
    own = wilson(388, 400)
    reference = proportion_confint(388, 400, method="wilson")
    assert (own.low, own.high) == pytest.approx(reference)
    row = figure("accuracy_top1", 0.97, reference, unit="fraction", network=Network.QUANTIZED, n=400)
    asked = replace(gate(Rule.AT_LEAST, 0.96, "accuracy_top1", "fraction"), network=Network.QUANTIZED)
    result = decide(asked, row)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "samples (power 80 %), 400 given" in result.detail


@pytest.mark.parametrize("source", [Source.EMULATED, Source.MODELLED, Source.PUBLISHED])
@pytest.mark.parametrize("value", [100.0, 0.001])
def test_no_board_no_decision(source: Source, value: float) -> None:
    result = decide(gate(Rule.AT_LEAST, 1.0), figure("speedup", value, (value, value), source=source))
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "not measured" in result.detail
    assert "board" in result.detail


def test_a_model_decides_only_where_the_gate_takes_it_and_only_beyond_its_error() -> None:
    takes = replace(gate(Rule.AT_LEAST, 3.0), sources=(Source.MODELLED,), model_error=0.1)
    for value, outcome in ((3.4, "pass"), (3.2, "inconclusive"), (2.8, "inconclusive"), (2.7, "fail")):
        assert decide(takes, figure("speedup", value, source=Source.MODELLED)).outcome == outcome
    without = replace(takes, model_error=None)
    assert decide(without, figure("speedup", 9.0, source=Source.MODELLED)).outcome == "inconclusive"
    # and a measured figure no longer decides a gate that takes models only
    assert decide(takes, figure("speedup", 9.0, (8.0, 10.0))).outcome == "inconclusive"


def test_what_stands_in_the_way_is_said() -> None:
    good = figure("speedup", 2.0, (1.9, 2.1))
    fast = gate(Rule.AT_LEAST, 1.0)
    crashed = replace(BOARD, status="crashed", error="out of memory")
    assert decide(fast, good, target=crashed).detail == "not measured: crashed: out of memory"
    assert decide(fast, good, target=replace(BOARD, status="throttled")).detail.startswith("throttled: cool")
    cold = Loading(Network.FLOAT, 1, 1, 1, None, False, "", "", (), warm_up_s=60.0, steady=False)
    said = decide(fast, good, target=replace(BOARD, loadings=(cold,))).detail
    assert "not-warm" in said
    assert said.endswith("; quieten the board and run again")
    bounded = replace(BOARD, loadings=(cold,), stopping=StoppingRule(6, 0.015, 40, budget_s=12))
    assert decide(fast, good, target=bounded).detail.endswith("or give a longer --budget and run again")
    assert decide(fast).detail == "not measured: the run has no speedup of Ratio"
    assert decide(fast, figure("speedup", None, note="not timed")).detail == "not measured: not timed"
    assert decide(fast, figure("speedup", 2.0, n=1, note="one pair of blocks")).detail.startswith("no interval")
    for result in (decide(fast, good, target=crashed), decide(fast), decide(fast, figure("speedup", 2.0))):
        assert result.outcome is Outcome.INCONCLUSIVE


def test_heat_says_nothing_of_outputs() -> None:
    row = figure("accuracy_top1_delta", 0.0, (-0.001, 0.001), unit="fraction")
    asked = gate(Rule.NON_INFERIOR, 0.01, "accuracy_top1", "fraction")
    assert decide(asked, row, target=replace(BOARD, status="throttled")).outcome is Outcome.PASS


def test_counts_are_exact() -> None:
    row = figure("peak_memory_bytes", 200e6, unit="bytes", network=Network.QUANTIZED)
    assert decide(gate(Rule.AT_MOST, 200e6, "peak_memory_bytes", "bytes"), row).outcome is Outcome.PASS
    assert decide(gate(Rule.AT_MOST, 199e6, "peak_memory_bytes", "bytes"), row).outcome is Outcome.FAIL


def test_a_percentile_without_a_row_comes_from_the_blocks() -> None:
    rng = np.random.default_rng(3)
    latencies = [rng.gamma(20, 50_000, 2_000).astype(int) for _ in range(8)]
    blocks = tuple(
        BlockRecord(Network.QUANTIZED, pair, tuple(ns.tolist()), 0.0, ns.sum() / 1e9 * 1.01, 1, 0.1, 1)
        for pair, ns in enumerate(latencies)
    )
    result = decide(gate(Rule.AT_MOST, 3.0, "latency_p97_ms", "ms"), target=replace(BOARD, blocks=blocks))
    assert result.outcome is Outcome.PASS
    assert result.value == pytest.approx(np.quantile(np.concatenate(latencies), 0.97) / 1e6, rel=0.01)
    few = replace(BOARD, blocks=tuple(replace(block, latency_ns=block.latency_ns[:5]) for block in blocks))
    result = decide(gate(Rule.AT_MOST, 3.0, "latency_p9999_ms", "ms"), target=few)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "--profile release" in result.detail


def test_a_bound_passes_a_percentile_that_has_no_interval_and_never_fails_it() -> None:
    network = Network.QUANTIZED
    point = figure("latency_p99_ms", 4.0, unit="ms", network=network, note="no interval: a block is too short for it")
    bound = figure("latency_p99_bound_ms", 5.0, unit="ms", network=network)
    for threshold, outcome in ((6.0, "pass"), (4.5, "inconclusive"), (3.0, "inconclusive")):
        result = decide(gate(Rule.AT_MOST, threshold, "latency_p99_ms", "ms"), point, bound)
        assert result.outcome == outcome
        assert (result.ci_low, result.ci_high) == (None, 5.0)
        assert "early-stopping bound" in result.detail
    without = decide(gate(Rule.AT_MOST, 6.0, "latency_p99_ms", "ms"), point)
    assert without.outcome is Outcome.INCONCLUSIVE
    assert without.detail == "no interval: a block is too short for it; measure longer: `--profile release`"
    assert decide(gate(Rule.AT_LEAST, 1.0, "latency_p99_ms", "ms"), point, bound).outcome is Outcome.INCONCLUSIVE
    # where the percentile has an interval of its own, that decides
    known = replace(point, ci_low=3.5, ci_high=4.4)
    assert decide(gate(Rule.AT_MOST, 4.5, "latency_p99_ms", "ms"), known, bound).ci_low == 3.5


def test_overrides_and_scope() -> None:
    asked = replace(
        gate(Rule.AT_LEAST, 2.0),
        scope=Scope(environments=("cpu", "fpga")),
        overrides=(
            Override(Scope(tags=("old",)), threshold=1.0),
            Override(Scope(environments=("fpga",)), threshold=3.0, sources=(Source.MODELLED,), model_error=0.1),
            Override(Scope(targets=("gone",)), skip=True),
        ),
    )
    place = Place("rpi", "raspberry-pi-5", "cpu")
    assert asked.on(place) == replace(asked, overrides=())
    assert asked.on(replace(place, environment="gpu")) is None
    old = asked.on(replace(place, tags=("old", "x")))
    assert old is not None
    assert old.threshold == 1.0
    fpga = asked.on(replace(place, tags=("old",), environment="fpga"))
    assert fpga is not None
    assert (fpga.threshold, fpga.sources) == (3.0, (Source.MODELLED,))
    assert asked.on(replace(place, target="gone")) is None


def test_worst_of() -> None:
    assert worst_outcome([]) is None
    assert worst_outcome([Outcome.PASS, Outcome.INCONCLUSIVE]) is Outcome.INCONCLUSIVE
    assert worst_outcome([Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.PASS]) is Outcome.FAIL
