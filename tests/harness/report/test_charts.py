"""Plots: marks stand where the numbers are."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from harness.judge.rejected import clean_pairs
from harness.record.networks import LayerSqnr
from harness.record.run import RunRecord
from harness.report.charts import accuracy_charts, sweep_charts
from harness.report.charts_latency import latency_charts
from harness.report.charts_layers import layer_charts
from harness.report.charts_telemetry import telemetry_chart
from harness.report.svg import MARGIN, log_scale
from tests.harness.report.made_runs import full_run, many_run, swept_run


def rects(drawing: str, kind: str) -> list[tuple[float, float, float, float]]:
    """(x, y, width, height) of the bars of a class."""
    pattern = r'<rect x="([\d.]+)%" y="([\d.e+-]+)" width="([\d.]+)%" height="([\d.e+-]+)" class="' + kind + '"'
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in re.findall(pattern, drawing)]


def test_the_histogram_is_that_of_the_clean_blocks(run_record: RunRecord) -> None:
    target = full_run(run_record).targets[0]
    (chart,) = latency_charts(target.name, [target], 1)
    ticks = re.findall(r'<text x="([\d.]+)%" y="\d+" class="tick" text-anchor="middle">([\d.]+)<', chart.drawing)
    (x0, v0), (x1, v1) = ((float(x), float(v)) for x, v in (ticks[0], ticks[-1]))
    slope = (v1 - v0) / (x1 - x0)
    samples = np.concatenate(
        [np.array(b.latency_ns) / 1e6 for b in clean_pairs(target.blocks) if b.network == "Floating-Point"]
    )
    columns = rects(chart.drawing, "histogram float")
    edges = [(v0 + slope * (x - x0), v0 + slope * (x + wide - x0)) for x, _, wide, _ in columns]
    counts = [int(np.sum((samples >= low - 1e-5) & (samples < high - 1e-5))) for low, high in edges]
    heights = np.array([height for *_, height in columns])
    assert np.argmax(heights) == np.argmax(counts)
    assert heights == pytest.approx(np.maximum(26 * np.array(counts) / max(counts), 0.8), abs=1.0)


def test_a_sweep_is_drawn_once_a_board_and_wide_ones_on_a_logarithmic_axis(run_record: RunRecord) -> None:
    record = swept_run(run_record)
    swept = [target for target in record.targets if target.entry]
    (chart,) = latency_charts("this-machine", swept, 1)
    assert "(logarithmic)" in chart.drawing
    assert [row[0] for row in chart.rows[:2]] == [
        "Floating-Point, batch 1, 1 thread",
        "Quantized, batch 1, 1 thread",
    ]
    (rates,) = sweep_charts(record)
    assert len(rates.rows) == 12
    (accuracy,) = accuracy_charts(record)
    assert [row[0] for row in accuracy.rows].count("this-machine") == 2  # six settings, one accuracy
    assert rates.folded
    assert not accuracy.folded


def test_many_targets_take_several_drawings_on_one_scale(run_record: RunRecord) -> None:
    charts = accuracy_charts(many_run(run_record, 40))
    assert len(charts) == 3
    assert sum(len(chart.rows) for chart in charts) == 60  # thirty that did not crash, two networks each
    ticks = {tuple(re.findall(r'class="tick" text-anchor="middle">([\d.]+)<', chart.drawing)) for chart in charts}
    assert len(ticks) == 1
    assert len({chart.identity for chart in charts}) == 3


def test_layers_are_as_high_as_their_sqnr(run_record: RunRecord) -> None:
    record = full_run(run_record)
    (chart,) = layer_charts(record)
    made = record.targets[0].quantized
    assert made is not None
    found = rects(chart.drawing, "layer(?: worst)?")
    values = [layer.sqnr_db or 0.0 for layer in made.layers]
    heights = [height for *_, height in found]
    assert np.corrcoef(values, heights)[0, 1] == pytest.approx(1, abs=1e-4)
    assert rects(chart.drawing, "layer worst") == [found[int(np.argmin(values))]]
    assert "Lowest: block27.conv 29.2 dB" in chart.caption
    assert [row[0] for row in chart.rows] == [layer.layer for layer in made.layers]


def test_layers_that_are_equal_negative_or_very_many(run_record: RunRecord) -> None:
    record = full_run(run_record)
    made = record.targets[0].quantized
    assert made is not None

    def drawn(layers: tuple[LayerSqnr, ...]) -> RunRecord:
        changed = replace(record.targets[0], quantized=replace(made, layers=layers))
        return replace(record, targets=(changed,))

    assert layer_charts(drawn((LayerSqnr("a", "Conv", None),))) == []
    (chart,) = layer_charts(drawn((LayerSqnr("a", "Conv", None), LayerSqnr("b", "Conv", -3.0))))
    assert len(rects(chart.drawing, "layer worst")) == 1
    assert ("a", "Conv", "equal") in chart.rows
    (many,) = layer_charts(drawn(tuple(LayerSqnr(f"l{i}", "Conv", 50.0 - (i == 700)) for i in range(1000))))
    columns = rects(many.drawing, "layer(?: worst)?")
    assert 100 <= len(columns) <= 120
    assert len(many.rows) == 1000
    assert "Each column is the worst of several neighbours." in many.caption


def test_a_curve_is_the_telemetry_and_another_day_is_left_out(run_record: RunRecord) -> None:
    target = full_run(run_record).targets[0]
    stray = replace(target.telemetry[0], unix_s=target.telemetry[0].unix_s + 86_400.0)
    broken = replace(target.telemetry[0], temperature_c={"soc": math.nan}, clocks_mhz={"cpu": math.inf})
    chart = telemetry_chart("board", [replace(target, telemetry=(*target.telemetry, stray, broken))], 1)
    assert chart is not None
    rows = {row[0]: row[1:] for row in chart.rows}
    temperatures = [max(point.temperature_c.values()) for point in target.telemetry]
    assert float(rows["Hottest zone, °C"][0]) == pytest.approx(min(temperatures), abs=0.01)
    assert float(rows["Hottest zone, °C"][2]) == pytest.approx(max(temperatures), abs=0.01)
    assert rows["Clock, cpu, MHz"] == ("1,310", "1,510", "1,510", "130")
    assert "nan" not in chart.drawing.lower().replace("nanos", "")
    xs = [float(x) for x in re.findall(r'<line x1="([\d.]+)%"[^>]*class="curve"', chart.drawing)]
    assert min(xs) == pytest.approx(MARGIN, abs=0.1)
    assert max(xs) > 95  # the stray sample does not press the run together
    assert chart.drawing.count('class="strip float"') == 12


def test_without_telemetry_or_rejected_pairs_nothing_is_drawn(run_record: RunRecord) -> None:
    target = full_run(run_record).targets[0]
    calm = tuple(replace(block, disturbed=()) for block in target.blocks)
    assert telemetry_chart("board", [replace(target, telemetry=(), blocks=calm)], 1) is None
    assert telemetry_chart("board", [replace(target, telemetry=())], 1) is not None  # rejected pairs are told anyway
    assert telemetry_chart("board", [replace(target, blocks=())], 1) is None


@pytest.mark.parametrize("values", [[0.3, 40.0], [1.0], [5e-7, 3e5], [2.0, 2.0]])
def test_a_logarithmic_scale_holds_its_values_and_has_ticks(values: list[float]) -> None:
    scale = log_scale(values)
    assert scale.low <= min(values)
    assert max(values) <= scale.high
    assert 1 <= len(scale.ticks) <= 9
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    middle = math.sqrt(scale.low * scale.high)
    assert scale.share(middle) == pytest.approx(0.5)


def test_a_logarithmic_scale_needs_a_value() -> None:
    with pytest.raises(ValueError, match="above 0"):
        log_scale([0.0, -1.0, math.nan])
