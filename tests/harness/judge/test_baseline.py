"""Changes of figures, against published intervals, counts by hand and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from harness.judge.baseline import Standing, change_of, less_is_better, paired_change
from harness.judge.metrics import Rows
from harness.judge.samples import KeptSamples
from harness.record.figure import Figure, Network, Source


def figure(
    metric: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "ms",
    source: Source = Source.MEASURED,
    network: Network = Network.QUANTIZED,
    note: str = "",
) -> Figure:
    return Figure("pi", "raspberry-pi-4", "cpu", network, "", metric, value, unit, source, low, high, None, note)


def latency(value: float, half: float) -> Figure:
    """A latency with an interval of ± that share."""
    return figure("latency_p50_ms", value, value / (1 + half), value * (1 + half))


@pytest.mark.parametrize(
    ("now", "half", "standing"),
    [
        (1.00, 0.01, Standing.SAME),
        (1.03, 0.01, Standing.SAME),  # certainly slower, and by less than what may be lost
        (1.06, 0.01, Standing.UNCLEAR),  # 5 % lies inside
        (1.00, 0.06, Standing.UNCLEAR),  # nothing seen, nothing excluded
        (1.10, 0.01, Standing.WORSE),
        (0.97, 0.01, Standing.SAME),  # won for certain, and no more than boards differ from run to run
        (0.90, 0.01, Standing.BETTER),
    ],
)
def test_a_time_is_judged_by_the_interval_of_its_ratio(now: float, half: float, standing: Standing) -> None:
    found = change_of(latency(1.0, half), latency(now, half))
    assert found.standing is standing
    assert found.relative
    assert found.change == pytest.approx(now - 1)
    assert found.interval is not None
    # two independent errors of the same size on the logarithm
    assert math.log1p(found.interval[1]) == pytest.approx(math.log(now) + math.sqrt(2) * math.log1p(half))


def test_the_good_side_depends_on_the_metric() -> None:
    faster = change_of(figure("fps", 100, 99, 101, "1/s"), figure("fps", 120, 119, 121, "1/s"))
    assert faster.standing is Standing.BETTER
    slower = change_of(figure("speedup", 2.0, 1.98, 2.02, "x"), figure("speedup", 1.5, 1.48, 1.52, "x"))
    assert slower.standing is Standing.WORSE
    assert less_is_better("energy_net_mj")
    assert less_is_better("mse")
    assert not less_is_better("accuracy_top1")
    own = change_of(figure("defects", 4, 3.9, 4.1, ""), figure("defects", 2, 1.9, 2.1, ""), less=True)
    assert own.standing is Standing.BETTER


def test_what_may_be_lost_can_be_named() -> None:
    pair = latency(1.0, 0.001), latency(1.02, 0.001)
    assert change_of(*pair).standing is Standing.SAME
    assert change_of(*pair, tolerance=0.01).standing is Standing.WORSE
    assert change_of(pair[0], pair[0], tolerance=0.0).standing is Standing.UNCLEAR


def test_counts_are_taken_as_they_stand_and_readings_without_an_interval_are_not() -> None:
    weights = [figure("learnable_memory_bytes", float(count), unit="bytes") for count in (1000, 1000, 1001)]
    assert change_of(weights[0], weights[1]).standing is Standing.SAME
    assert change_of(weights[0], weights[2]).standing is Standing.WORSE
    closeness = [figure("sqnr_db", value, unit="dB", network=Network.RATIO) for value in (30.0, 29.6, 29.0)]
    assert change_of(closeness[0], closeness[1]).standing is Standing.SAME
    assert change_of(closeness[0], closeness[2]).standing is Standing.WORSE
    power = figure("power_w", 5.0, unit="W")
    assert change_of(power, figure("power_w", 9.0, unit="W")).standing is Standing.UNCLEAR
    modelled = [figure("fps", value, unit="1/s", source=Source.MODELLED) for value in (100.0, 80.0)]
    assert change_of(*modelled).standing is Standing.WORSE


def test_figures_that_are_not_the_same_kind_of_number_are_never_compared() -> None:
    emulated = figure("accuracy_top1", 0.99, 0.98, 1.0, "fraction", source=Source.EMULATED)
    measured = figure("accuracy_top1", 0.5, 0.4, 0.6, "fraction")
    found = change_of(emulated, measured)
    assert found.standing is Standing.UNCLEAR
    assert "emulated fraction then, measured fraction now" in found.note
    gone = change_of(latency(1, 0.01), figure("latency_p50_ms", None, note="throttled"))
    assert (gone.standing, gone.note) == (Standing.UNCLEAR, "not there now: throttled")
    assert change_of(latency(1, 0.01), None).standing is Standing.UNCLEAR


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.001, 0.2), st.floats(0.001, 0.2), st.floats(0.0, 0.2))
def test_worse_one_way_is_never_worse_the_other_way(old: float, new: float, a: float, b: float, lost: float) -> None:
    there = change_of(latency(old, a), latency(new, b), tolerance=lost)
    back = change_of(latency(new, b), latency(old, a), tolerance=lost)
    assert {there.standing, back.standing} != {Standing.WORSE}
    if there.standing is Standing.WORSE:
        assert new > old * (1 + lost)
        assert back.standing in {Standing.BETTER, Standing.SAME}
        assert back.change is not None
        assert back.change < 0


# -- the same samples -------------------------------------------------------------------------------------------------


def right(values: NDArray[Any], ids: int | None = None, **columns: NDArray[Any]) -> KeptSamples:
    count = len(values)
    rows = {"accuracy_top1": Rows({"value": np.asarray(values, np.float64)} | columns)}
    return KeptSamples(tuple(f"s{(ids or 0) + i}" for i in range(count)), np.arange(count), rows)


def test_paired_samples_find_what_two_independent_intervals_cannot() -> None:
    then = np.ones(500)
    then[-100:] = 0
    now = then.copy()
    now[:8] = 0  # 1.6 points
    interval, note = paired_change("accuracy_top1", right(then), right(now))
    assert interval is not None
    assert "8 lost, 0 won" in note
    assert -0.032 < interval.low < -0.016 < interval.high < -0.005

    def share(values: NDArray[Any]) -> Figure:
        low, high = proportion_confint(int(values.sum()), len(values), method="wilson")
        return figure("accuracy_top1", float(values.mean()), low, high, "fraction")

    assert change_of(share(then), share(now), paired=interval).standing is Standing.WORSE
    assert change_of(share(then), share(now)).standing is Standing.UNCLEAR


def test_samples_that_all_came_out_as_before_are_no_change() -> None:
    values = np.array([1, 0, 1, 1])
    interval, note = paired_change("accuracy_top1", right(values), right(values))
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)
    assert "as before" in note


def test_other_samples_labels_or_metrics_are_not_paired() -> None:
    old = right(np.ones(10))
    assert paired_change("accuracy_top1", old, right(np.ones(10), ids=3)) == (None, "other samples than the baseline's")
    relabelled = KeptSamples(old.ids, np.zeros(10, np.int64), old.rows)
    assert paired_change("accuracy_top1", old, relabelled) == (None, "other labels than the baseline's")
    assert paired_change("miou", old, old)[0] is None
    strange = KeptSamples(old.ids, old.labels, {"accuracy_top1": Rows({"own": np.ones(10)})})
    assert paired_change("accuracy_top1", strange, right(np.zeros(10)))[0] is None


def test_values_per_sample_get_the_interval_of_their_paired_difference() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(10, 5, 200)  # far more spread between samples than between runs
    then, now = right(hard), right(hard + rng.normal(0.5, 0.1, 200))
    interval, _ = paired_change("accuracy_top1", then, now)
    assert interval is not None
    assert interval.low < 0.5 < interval.high
    assert interval.high - interval.low < 0.1
    positive = figure("own", 10.0, 9.0, 11.0, ""), figure("own", 10.5, 9.5, 11.5, "")
    scaled = change_of(*positive, paired=interval)  # a ratio: the interval is brought to the same scale
    assert scaled.relative
    assert scaled.interval == pytest.approx((interval.low / 10, interval.high / 10))
