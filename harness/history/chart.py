"""A series as a drawing: its nights with intervals, its levels, the nights when the machine changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harness.history.changes import Change, Story
from harness.history.series import Point, Series
from harness.report import svg
from harness.report.text import MINUS, significant, value_text

_LEFT, _RIGHT = 11.0, 97.0  # percent of the width that nights take; numbers of the scale stand left of it
_TOP, _BOTTOM = 22.0, 172.0  # pixels
#: A narrow screen shows this many dates without their running into each other.
_DATES = 4

#: What the drawing needs beyond the page's own style sheet.
STYLE = """
.chart .night { fill: var(--float); stroke: none; }
.chart .whisker { stroke: var(--float); stroke-width: 1.2; stroke-opacity: .55; }
.chart .level { stroke: var(--quantized); stroke-width: 2.5; }
.chart .machine { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 4 3; }
.chart .step { fill: var(--quantized); font-weight: 600; font-size: 12px; }
.chart .why { fill: var(--quiet); font-size: 12px; }
.spark { display: block; min-width: 7rem; }
.spark .night { fill: var(--float); }
.spark .level { stroke: var(--quantized); stroke-width: 2; }
"""


def change_text(change: Change) -> str:
    """Its size as a reader says it: "+3.1 %", or in the figure's own unit."""
    return size_text(change.change, change.unit, change.key.metric, relative=change.relative)


def size_text(change: float, unit: str, metric: str, *, relative: bool) -> str:
    """A signed change: percent where it is a ratio less one, else points or the unit."""
    sign = "+" if change > 0 else MINUS if change < 0 else ""
    if relative:
        return f"{sign}{significant(100 * abs(change))} %"
    if unit == "fraction":
        return f"{sign}{significant(100 * abs(change))} pt"
    return f"{sign}{value_text(abs(change), unit, metric)}"


def series_chart(story: Story, identity: str) -> Markup:
    """The drawing of a series.

    Args:
        story: the series and what was found.
        identity: unique in the page.
    """
    series = story.series
    points = series.points
    # the interval of an accuracy speaks of other samples; from night to night they are the same ones
    whiskers = [_whisker(point) if series.logarithmic else () for point in points]
    ends = [end for point, whisker in zip(points, whiskers, strict=True) for end in (point.value, *whisker)]
    scale = svg.nice_scale(ends, at_most=5)
    parts = _frame(series, scale)
    for index in range(1, len(points)):
        if story.regimes[index] != story.regimes[index - 1]:
            x = (_x(index, len(points)) + _x(index - 1, len(points))) / 2
            parts.append(svg.line(x, _TOP, x, _BOTTOM, "machine"))
            parts.append(svg.text(x, _TOP - 6, "machine", "why", "middle"))
    for level in story.found.levels:
        y = _y(series.back(level.value), scale)
        half = 0.5 * (_RIGHT - _LEFT) / max(len(points), 2)
        last = _x(level.stop - 1, len(points))
        parts.append(svg.line(_x(level.start, len(points)) - half, y, last + half, y, "level"))
    for index, point in enumerate(points):
        x = _x(index, len(points))
        if whisker := whiskers[index]:
            parts.append(svg.line(x, _y(whisker[0], scale), x, _y(whisker[1], scale), "whisker"))
        parts.append(svg.dot(x, _y(point.value, scale), 3, "night"))
    for change in story.changes:
        y = min(max(min(_y(change.old, scale), _y(change.new, scale)) - 8, _TOP + 10), _BOTTOM - 4)
        x = _x(change.index, len(points))
        parts.append(svg.text(x, y, change_text(change), "step", "end" if x > 80 else "start"))
    return svg.drawing(int(_BOTTOM + 40), str(series.key), described(story), identity, parts)


def spark(story: Story, identity: str) -> Markup:
    """A small drawing for a row of a table: the nights and the levels, no numbers."""
    points = story.series.points
    scale = svg.nice_scale([point.value for point in points])
    height = 34.0

    def y(value: float) -> float:
        return 4 + (height - 8) * (1 - (value - scale.low) / (scale.high - scale.low))

    def x(index: float) -> float:
        return 4 + 92 * (index + 0.5) / len(points)

    parts = [
        svg.line(x(level.start - 0.4), y(at), x(level.stop - 0.6), y(at), "level")
        for level in story.found.levels
        for at in [story.series.back(level.value)]
    ]
    parts += [svg.dot(x(index), y(point.value), 1.6, "night") for index, point in enumerate(points)]
    title = svg.element("title", described(story), id=identity)
    return svg.element(
        "svg", Markup("").join([title, *parts]), class_="spark", role="img", width="100%", height=height,
        aria_labelledby=identity,
    )  # fmt: skip


def described(story: Story) -> str:
    """What the drawing shows, in words."""
    series = story.series
    first, last = series.points[0], series.points[-1]
    unit, metric = series.unit, series.key.metric
    words = [
        f"{series.key}: {len(series.points)} nights from {first.started[:10]} to {last.started[:10]}, "
        f"last {value_text(last.value, unit, metric)}"
    ]
    words += [f"{change_text(one)} since {one.first.started[:10]}" for one in story.changes] or ["no step"]
    return "; ".join(words)


def _frame(series: Series, scale: svg.Scale) -> list[Markup]:
    """The grid with its numbers, the dates, the unit."""
    parts: list[Markup] = []
    fraction = series.unit == "fraction"
    spacing = (scale.ticks[1] - scale.ticks[0]) if len(scale.ticks) > 1 else abs(scale.high) or 1.0
    factor = 100.0 if fraction else 1.0
    decimals = max(0, -math.floor(math.log10(spacing * factor) + 1e-9))
    for tick in scale.ticks:
        y = _y(tick, scale)
        parts += [
            svg.line(_LEFT, y, _RIGHT, y, "grid"),
            svg.text(_LEFT - 1, y + 4, f"{tick * factor:,.{decimals}f}", "tick", "end"),
        ]
    unit = "%" if fraction else series.unit
    parts.append(svg.text(0, 12, f"{series.key.metric}, {unit}" if unit else series.key.metric, "axis"))
    count = len(series.points)
    shown = sorted({round(i * (count - 1) / (_DATES - 1)) for i in range(_DATES)} if count > _DATES else range(count))
    for index in shown:
        x = _x(index, count)
        anchor = "end" if x > 90 else "middle"
        parts.append(svg.text(x, _BOTTOM + 18, series.points[index].started[:10], "tick", anchor))
    return parts


def _whisker(point: Point) -> Sequence[float]:
    return () if point.low is None or point.high is None else (point.low, point.high)


def _x(index: float, count: int) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (index + 0.5) / count


def _y(value: float, scale: svg.Scale) -> float:
    inside = min(max(value, scale.low), scale.high)
    return _BOTTOM - (_BOTTOM - _TOP) * (inside - scale.low) / (scale.high - scale.low)
