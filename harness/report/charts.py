"""Plots of figures: both networks with their intervals, a row for every target or setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from harness.record.figure import Figure, Network
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report import svg
from harness.report.chart import Chart, boards_of, of_parts, parts_of, tick_label
from harness.report.headline import figure_index, headline_metric, metric_title
from harness.report.text import interval_text, plain, value_text

_BOTH = (Network.FLOAT, Network.QUANTIZED)
_CLASS = {Network.FLOAT: "float", Network.QUANTIZED: "quantized"}

#: (label, figures of both networks).
_Shown = list[tuple[str, list[Figure]]]


def accuracy_charts(record: RunRecord) -> list[Chart]:
    """The headline metric of both networks with 95 % intervals, a row a target; none when no target has it.

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
    return _interval_charts(shown, metric, name, f"{name[0].upper()}{name[1:]} of both networks", "accuracy")


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
        charts += _interval_charts(shown, "fps", "samples a second", title, f"sweep-{number}")
    return charts


def _known(index: dict[tuple[str, Network, str], Figure], target: TargetRecord, metric: str) -> list[Figure]:
    found = [index.get((target.name, network, metric)) for network in _BOTH]
    return [figure for figure in found if figure is not None and figure.value is not None]


def _interval_charts(shown: _Shown, metric: str, name: str, title: str, identity: str) -> list[Chart]:
    """One chart for each so many rows, all on one scale."""
    ends = [end for _, known in shown for f in known for end in (f.value, f.ci_low, f.ci_high) if end is not None]
    if not np.isfinite(ends).any():
        return []
    fraction = shown[0][1][0].unit == "fraction"
    scale = svg.nice_scale(ends, bounds=(0.0, 1.0) if fraction else (-np.inf, np.inf))
    pages = parts_of(shown)
    return [
        _interval_chart(page, scale, metric, name, f"{title}{of_parts(i, len(pages))}", f"{identity}-{i}")
        for i, page in enumerate(pages, start=1)
    ]


def _interval_chart(
    shown: Sequence[tuple[str, list[Figure]]], scale: svg.Scale, metric: str, name: str, title: str, identity: str
) -> Chart:
    unit = shown[0][1][0].unit
    fraction = unit == "fraction"
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
