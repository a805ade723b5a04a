"""Plots of figures: both networks with their intervals for every target, and the distribution of latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from harness.judge.figure import Figure, Network
from harness.judge.rejected import clean_pairs
from harness.judge.statistics import quantile_point
from harness.record import RunRecord, TargetRecord
from harness.report import svg
from harness.report.chart import Chart, boards_of, tick_label
from harness.report.headline import figure_index, headline_metric, metric_title
from harness.report.text import interval_text, plain, significant, value_text

_BOTH = (Network.FLOAT, Network.QUANTIZED)
_CLASS = {Network.FLOAT: "float", Network.QUANTIZED: "quantized"}

#: Columns of a latency histogram over the whole axis.
_BINS = 60
#: A sweep whose medians differ more than this is drawn on a logarithmic axis.
_WIDE = 4.0

#: (label, figures of both networks).
_Shown = list[tuple[str, list[Figure]]]


def accuracy_chart(record: RunRecord) -> Chart | None:
    """The headline metric of both networks with 95 % intervals, a row a target; None when no target has it.

    The settings of a sweep that have the same figures are one row.
    """
    metric = headline_metric(record)
    index = figure_index(record.figures)
    shown: _Shown = []
    for name, together in boards_of(record.targets):
        known = [(target, _known(index, target, metric)) for target in together]
        values = {tuple((f.network, f.value, f.ci_low, f.ci_high) for f in figures) for _, figures in known}
        if len(values) == 1:
            known = known[:1]
        shown += [(name if len(values) == 1 else target.name, figures) for target, figures in known if figures]
    name = metric_title(metric)
    return _interval_chart(shown, metric, name, f"{name[0].upper()}{name[1:]} of both networks", "accuracy")


def sweep_charts(record: RunRecord) -> list[Chart]:
    """Samples a second of every setting of each swept target."""
    index = figure_index(record.figures)
    charts = []
    for number, (name, together) in enumerate(boards_of(record.targets), start=1):
        if not any(target.entry for target in together):
            continue
        shown = [
            (target.name.removeprefix(name).strip(" []") or target.name, figures)
            for target in together
            if (figures := _known(index, target, "fps"))
        ]
        title = f"Samples a second on {plain(name)}, by setting"
        chart = _interval_chart(shown, "fps", "samples a second", title, f"sweep-{number}")
        charts += [chart] if chart is not None else []
    return charts


def _known(index: dict[tuple[str, Network, str], Figure], target: TargetRecord, metric: str) -> list[Figure]:
    found = [index.get((target.name, network, metric)) for network in _BOTH]
    return [figure for figure in found if figure is not None and figure.value is not None]


def _interval_chart(shown: _Shown, metric: str, name: str, title: str, identity: str) -> Chart | None:
    if not shown:
        return None
    figures = [figure for _, known in shown for figure in known]
    unit = figures[0].unit
    fraction = unit == "fraction"
    ends = [end for f in figures for end in (f.value, f.ci_low, f.ci_high) if end is not None]
    if not np.isfinite(ends).any():
        return None
    scale = svg.nice_scale(ends, bounds=(0.0, 1.0) if fraction else (-np.inf, np.inf))
    parts: list[Markup] = []
    row_height, top = 62, 6
    bottom = top + row_height * len(shown)
    labels = [tick_label(tick, scale, factor=100 if fraction else 1) for tick in scale.ticks]
    per = "" if unit == "1/s" else unit  # the name says it already
    parts += svg.axis(scale, top, bottom, labels, f"{name}, %" if fraction else f"{name} {per}".strip())
    for number, (label, known) in enumerate(shown):
        y = top + row_height * number
        # The emphasised value stands at the right, clear of the marks: the label has a line of its own.
        parts.append(svg.text(svg.MARGIN, y + 16, f"{label} ({known[0].source.value})", "label"))
        for figure in known:
            mark_y = y + (31 if figure.network is Network.FLOAT else 47)
            parts += _mark(scale, figure, mark_y)
    rows = tuple(
        (
            plain(label),
            figure.network.value,
            value_text(figure.value, unit, metric),
            interval_text(figure.ci_low, figure.ci_high, unit, metric),
            "" if figure.n is None else f"{figure.n:,}",
            figure.source.value,
        )
        for label, known in shown
        for figure in known
    )
    described = "; ".join(f"{row[0]} {row[1]}: {row[2]} {row[3]}".strip() for row in rows)
    return Chart(
        identity,
        title,
        "Circle: Floating-Point. Square: Quantized. Line: 95 % interval. The axis does not start at zero.",
        svg.drawing(bottom + 36, title, described, identity, parts),
        ("target", "network", name, "95 % interval", "n", "source"),
        rows,
    )


def _mark(scale: svg.Scale, figure: Figure, y: float) -> list[Markup]:
    kind = _CLASS[figure.network]
    parts: list[Markup] = []
    if figure.ci_low is not None and figure.ci_high is not None:
        parts.append(svg.line(scale.at(figure.ci_low), y, scale.at(figure.ci_high), y, f"range {kind}"))
    x = scale.at(figure.value if figure.value is not None else scale.low)
    parts.append(svg.dot(x, y, 5, kind) if figure.network is Network.FLOAT else svg.square(x, y, 9, kind))
    return parts


def latency_chart(name: str, targets: Sequence[TargetRecord], number: int) -> Chart | None:
    """How the latencies of both networks are distributed on one board; None where nothing was timed.

    Args:
        name: of the board.
        targets: its settings, or the one target.
        number: makes the ids unique.
    """
    shown = [
        (_label(target, network, name), network, samples)
        for target in targets
        for network in _BOTH
        if (samples := _samples_ms(target, network))
    ]
    if not shown:
        return None
    spreads = [_spread(samples) for _, _, samples in shown]
    medians = [[float(np.median(block)) for block in samples] for _, _, samples in shown]
    edges = [value for spread, blocks in zip(spreads, medians, strict=True) for value in (*spread, *blocks)]
    middles = [spread[2] for spread in spreads]
    wide = len(targets) > 1 and min(edges) > 0 and max(middles) > _WIDE * min(middles)
    scale = svg.log_scale(edges) if wide else svg.nice_scale(edges, bounds=(0.0, np.inf))
    row_height, top = 92, 6
    bottom = top + row_height * len(shown)
    labels = [tick_label(tick, scale) for tick in scale.ticks]
    parts = svg.axis(scale, top, bottom, labels, "latency, ms (logarithmic)" if wide else "latency, ms")
    for index, (label, network, samples) in enumerate(shown):
        y, kind = top + row_height * index, _CLASS[network]
        parts.append(svg.text(svg.MARGIN, y + 16, label, "label"))
        parts += _histogram(scale, np.concatenate(samples), y + 50, kind)
        parts += _box(scale, spreads[index], y + 62, kind)
        parts += [svg.dot(scale.at(median), y + 80, 3, f"block {kind}") for median in medians[index]]
    rows = tuple(
        (
            label,
            *(significant(value, 4) for value in spread),
            f"{significant(min(blocks), 4)} to {significant(max(blocks), 4)}",
            f"{sum(block.size for block in samples):,}",
            f"{len(blocks)}",
        )
        for (label, _, samples), spread, blocks in zip(shown, spreads, medians, strict=True)
    )
    title = f"Latency on {plain(name)} ({targets[0].source.value})"
    described = "; ".join(f"{row[0]}: p5 {row[1]} ms, p50 {row[3]} ms, p95 {row[5]} ms" for row in rows)
    identity = f"latency-{number}"
    rejected = sum(len(t.blocks) - len(clean_pairs(t.blocks)) for t in targets)
    return Chart(
        identity,
        title,
        "Columns: how often; what lies beyond an end of the axis is not drawn. Box: the middle half of all iterations, "
        "its bar the median. Line: p5 to p95. Dots: the median of each block."
        + (f" {rejected} blocks of rejected pairs are left out." if rejected else ""),
        svg.drawing(bottom + 36, title, described, identity, parts),
        ("network", "p5, ms", "p25, ms", "p50, ms", "p75, ms", "p95, ms", "block medians, ms", "iterations", "blocks"),
        rows,
    )


def _label(target: TargetRecord, network: Network, name: str) -> str:
    setting = target.name.removeprefix(name).strip(" []") if target.entry else ""
    return plain(f"{network.value}, {setting}" if setting else network.value)


def _samples_ms(target: TargetRecord, network: Network) -> list[NDArray[np.float64]]:
    # where every pair was rejected, those are what the figures rest on
    return [
        np.asarray(block.latency_ns, dtype=np.float64) / 1e6
        for block in clean_pairs(target.blocks) or target.blocks
        if block.network is network and block.latency_ns
    ]


def _spread(blocks: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    everything = np.sort(np.concatenate(blocks))
    return tuple(quantile_point(everything, p) for p in (0.05, 0.25, 0.5, 0.75, 0.95))


def _histogram(scale: svg.Scale, values: NDArray[np.float64], base: float, kind: str) -> list[Markup]:
    """Columns of equal width on the axis; their heights are relative to the highest."""
    if scale.logarithmic:
        edges = np.geomspace(scale.low, scale.high, _BINS + 1)
    else:
        edges = np.linspace(scale.low, scale.high, _BINS + 1)
    counts, _ = np.histogram(values, edges)
    most = int(counts.max(initial=0))
    parts = []
    for number in np.flatnonzero(counts):
        height = max(0.8, 26.0 * counts[number] / most)
        left, right = scale.at(float(edges[number])), scale.at(float(edges[number + 1]))
        parts.append(svg.bar(left, right, round(base - height / 2, 2), round(height, 2), f"histogram {kind}"))
    return parts


def _box(scale: svg.Scale, spread: tuple[float, ...], y: float, kind: str) -> list[Markup]:
    p5, p25, p50, p75, p95 = (scale.at(value) for value in spread)
    return [
        svg.line(p5, y, p95, y, f"range {kind}"),
        svg.bar(p25, p75, y, 12, f"box {kind}"),
        svg.line(p50, y - 7, p50, y + 7, f"median {kind}"),
    ]
