"""The two plots of the page: accuracy with its intervals for every target, and latency for every measured one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from harness.judge.figure import Figure, Network
from harness.judge.statistics import quantile_point
from harness.record import RunRecord, TargetRecord
from harness.report import svg
from harness.report.headline import figure_index, headline_metric, metric_title
from harness.report.text import interval_text, plain, significant, value_text

_BOTH = (Network.FLOAT, Network.QUANTIZED)
_CLASS = {Network.FLOAT: "float", Network.QUANTIZED: "quantized"}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the numbers behind it.

    Args:
        identity: unique in the page.
        title: heading of the drawing.
        caption: how to read it.
        drawing: the `<svg>`.
        headers: of the table of numbers.
        rows: its cells; the first of a row is its header.
    """

    identity: str
    title: str
    caption: str
    drawing: Markup
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def accuracy_chart(record: RunRecord) -> Chart | None:
    """The headline metric of both networks with 95 % intervals, a row a target; None when no target has it."""
    metric = headline_metric(record)
    index = figure_index(record.figures)
    shown: list[tuple[TargetRecord, list[Figure]]] = []
    for target in record.targets:
        found = [index.get((target.name, network, metric)) for network in _BOTH]
        known = [figure for figure in found if figure is not None and figure.value is not None]
        if known:
            shown.append((target, known))
    if not shown:
        return None
    figures = [figure for _, known in shown for figure in known]
    unit = figures[0].unit
    fraction = unit == "fraction"
    ends = [end for f in figures for end in (f.value, f.ci_low, f.ci_high) if end is not None]
    scale = svg.nice_scale(ends, bounds=(0.0, 1.0) if fraction else (-np.inf, np.inf))
    parts: list[Markup] = []
    row_height, top = 62, 6
    bottom = top + row_height * len(shown)
    labels = [_tick(tick, scale, fraction=fraction) for tick in scale.ticks]
    name = metric_title(metric)
    parts += svg.axis(scale, top, bottom, labels, f"{name}, %" if fraction else f"{name} {unit}".strip())
    for number, (target, known) in enumerate(shown):
        y = top + row_height * number
        # The emphasised value stands at the right, clear of the marks: the label has a line of its own.
        parts.append(svg.text(svg.MARGIN, y + 16, f"{target.name} ({target.source.value})", "label"))
        for figure in known:
            mark_y = y + (31 if figure.network is Network.FLOAT else 47)
            parts += _mark(scale, figure, mark_y)
    title = f"{name[0].upper()}{name[1:]} of both networks"
    rows = tuple(
        (
            plain(target.name),
            figure.network.value,
            value_text(figure.value, unit, metric),
            interval_text(figure.ci_low, figure.ci_high, unit, metric),
            "" if figure.n is None else f"{figure.n:,}",
            target.source.value,
        )
        for target, known in shown
        for figure in known
    )
    described = "; ".join(f"{row[0]} {row[1]}: {row[2]} {row[3]}".strip() for row in rows)
    return Chart(
        "accuracy",
        title,
        "Circle: Floating-Point. Square: Quantized. Line: 95 % interval. The axis does not start at zero.",
        svg.drawing(bottom + 36, title, described, "accuracy", parts),
        ("target", "network", name, "95 % interval", "samples", "source"),
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


def latency_chart(target: TargetRecord, number: int) -> Chart | None:
    """Latency of both networks on one target; None where nothing was timed.

    Args:
        target: its record.
        number: makes the ids unique.
    """
    samples_ms = {network: _samples_ms(target, network) for network in _BOTH}
    shown = [network for network in _BOTH if samples_ms[network]]
    if not shown:
        return None
    spread = {network: _spread(samples_ms[network]) for network in shown}
    medians = {network: [float(np.median(block)) for block in samples_ms[network]] for network in shown}
    scale = svg.nice_scale([v for n in shown for v in (*spread[n], *medians[n])], bounds=(0.0, np.inf))
    row_height, top = 62, 6
    bottom = top + row_height * len(shown)
    labels = [_tick(tick, scale, fraction=False) for tick in scale.ticks]
    parts = svg.axis(scale, top, bottom, labels, "latency, ms")
    for index, network in enumerate(shown):
        y = top + row_height * index
        parts.append(svg.text(svg.MARGIN, y + 16, network.value, "label"))
        parts += _box(scale, spread[network], y + 32, _CLASS[network])
        for median in medians[network]:
            parts.append(svg.dot(scale.at(median), y + 51, 3, f"block {_CLASS[network]}"))
    rows = tuple(
        (
            network.value,
            *(significant(value, 4) for value in spread[network]),
            f"{significant(min(medians[network]), 4)} to {significant(max(medians[network]), 4)}",
            f"{sum(block.size for block in samples_ms[network]):,}",
            f"{len(medians[network])}",
        )
        for network in shown
    )
    title = f"Latency on {plain(target.name)} ({target.source.value})"
    described = "; ".join(f"{row[0]}: p5 {row[1]} ms, p50 {row[3]} ms, p95 {row[5]} ms" for row in rows)
    identity = f"latency-{number}"
    return Chart(
        identity,
        title,
        "Box: the middle half of all iterations, its bar the median. Line: p5 to p95. Dots: the median of each block.",
        svg.drawing(bottom + 36, title, described, identity, parts),
        ("network", "p5, ms", "p25, ms", "p50, ms", "p75, ms", "p95, ms", "block medians, ms", "iterations", "blocks"),
        rows,
    )


def _samples_ms(target: TargetRecord, network: Network) -> list[NDArray[np.float64]]:
    return [
        np.asarray(block.latency_ns, dtype=np.float64) / 1e6
        for block in target.blocks
        if block.network is network and block.latency_ns
    ]


def _spread(blocks: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    everything = np.sort(np.concatenate(blocks))
    return tuple(quantile_point(everything, p) for p in (0.05, 0.25, 0.5, 0.75, 0.95))


def _box(scale: svg.Scale, spread: tuple[float, ...], y: float, kind: str) -> list[Markup]:
    p5, p25, p50, p75, p95 = (scale.at(value) for value in spread)
    return [
        svg.line(p5, y, p95, y, f"range {kind}"),
        svg.bar(p25, p75, y, 16, f"box {kind}"),
        svg.line(p50, y - 8, p50, y + 8, f"median {kind}"),
    ]


def _tick(value: float, scale: svg.Scale, *, fraction: bool) -> str:
    step = (scale.ticks[1] - scale.ticks[0]) if len(scale.ticks) > 1 else abs(value) or 1.0
    factor = 100 if fraction else 1
    decimals = max(0, -int(np.floor(np.log10(step * factor) + 1e-9)))
    return f"{value * factor:,.{decimals}f}"
