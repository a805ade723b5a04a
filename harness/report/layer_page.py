"""One page on a network's layers: a table, a map of all dynamic ranges, a picture of each. One file, no script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from harness._version import __version__
from harness.quantize.dynamic_range import DynamicRange
from harness.quantize.overview import LayerView, Overview
from harness.report import text
from harness.report.histogram_svg import STYLE, histogram_svg, number, power, shade, type_text
from harness.report.page import template
from harness.report.svg import element

#: Height of a row of the map, and the room for its names, pixels.
_ROW, _NAMES = 18, 232
_CELL = 16
_MOST_BITS = 48
#: Exported names run to hundreds of characters: longer ones lose their middle in the map and in tables, and are whole
#: in the heading of their histograms.
_MAP_NAME, _TABLE_NAME = 30, 56


@dataclass(frozen=True, slots=True)
class RangeRow:
    """One line of a layer in the table."""

    what: str
    minimum: str
    maximum: str
    window: str
    overflow: str
    underflow: str
    precision_loss: str


@dataclass(frozen=True, slots=True)
class LayerSection:
    """A layer as the page shows it."""

    number: int
    view: LayerView
    name: str
    macs: str
    memory: str
    rows: tuple[RangeRow, ...]
    sqnr: str
    alone: str
    gain: str
    pictures: tuple[Markup, ...]


def layers_html(found: Overview) -> str:
    """The page's content; it depends on nothing but the overview."""
    sections = tuple(_section(number, view) for number, view in enumerate(found.layers, start=1))
    maps = [(what, range_map(found, what)) for what in ("Activations", "Weights") if _has(found, what)]
    return template("layers.html.j2").render(
        found=found,
        sections=sections,
        ranking=sorted((s for s in sections if s.view.gain_db is not None), key=lambda s: -(s.view.gain_db or 0.0)),
        missing=text.MISSING,
        maps=maps,
        style=Markup(STYLE),  # noqa: S704 (our own words)
        macs=sum(view.macs or 0 for view in found.layers),
        memory=sum(view.memory_bytes for view in found.layers),
        learnables=sum(view.learnables for view in found.layers),
        with_errors=any(view.sqnr_db is not None for view in found.layers),
        with_ranking=any(view.gain_db is not None for view in found.layers),
        int8_layers=sum(bool(view.int8) for view in found.layers),
        version=__version__,
    )


def range_map(found: Overview, what: str) -> Markup:
    """All layers' dynamic ranges under each other: a row a layer, a column a bit, as dark as the bit is full."""
    rows = [(number, view) for number, view in enumerate(found.layers, start=1) if what in view.ranges]
    bits = [bit for _, view in rows for bit in (*view.ranges[what].counts, *view.ranges[what].window)]
    top = max(bits)
    bottom = max(min(bits), top - _MOST_BITS + 1)
    width, height = _NAMES + _CELL * (top - bottom + 1) + 8, _ROW * len(rows) + 26
    parts: list[Markup] = []
    for index, (number_, view) in enumerate(rows):
        y = _ROW * index
        label = element("text", text.shortened(view.name, _MAP_NAME), x=_NAMES - 8, y=y + 13, text_anchor="end")
        parts.append(element("a", label, href=f"#layer-{number_}"))
        parts += _strip(view.ranges[what], top, bottom, y)
    for bit in range(top, bottom - 1, -1):
        if (top - bit) % 2 == 0:
            x = _NAMES + _CELL * (top - bit) + _CELL / 2
            parts.append(element("text", power(bit), x=x, y=height - 8, text_anchor="middle", class_="tick"))
    return element(
        "svg",
        Markup("").join(parts),
        class_="histogram map",
        role="img",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        aria_label=f"{what} of {len(rows)} layers by most-significant bit; the table has the figures",
    )


def _strip(found: DynamicRange, top: int, bottom: int, y: float) -> Iterator[Markup]:
    columns = dict.fromkeys(range(top, bottom - 1, -1), 0)
    for bit, count in found.counts.items():
        columns[max(bit, bottom)] += count
    fullest = max(columns.values(), default=0)
    for bit, count in columns.items():
        x = _NAMES + _CELL * (top - bit)
        kind = "band" if found.is_grey(bit) else "page"
        if count:
            kind = "grey" if found.is_grey(bit) else f"b{shade(count, fullest)}"
        hint = element("title", f"{power(bit)}: {count:,}")
        # What is outside the window and all but empty is a thin line, so that it does not look like the full bits.
        height = 12 if not found.is_grey(bit) or not count or count > 0.01 * fullest else 5
        middle = y + 2 + (12 - height) / 2
        yield element("rect", hint, x=x + 0.5, y=middle, width=_CELL - 1, height=height, class_=kind)
    begin = _NAMES + _CELL * (top - found.window[0])
    end = _NAMES + _CELL * (top - max(found.window[1], bottom) + 1)
    yield element("path", d=f"M {begin} {y + 1} H {end} V {y + 15} H {begin} Z", class_="bracket thin")


def _has(found: Overview, what: str) -> bool:
    return any(what in view.ranges for view in found.layers)


def _section(number_: int, view: LayerView) -> LayerSection:
    return LayerSection(
        number=number_,
        view=view,
        name=text.shortened(view.name, _TABLE_NAME),
        macs=text.MISSING if view.macs is None else f"{view.macs:,}",
        memory=f"{view.memory_bytes:,}",
        rows=tuple(_row(what, found) for what, found in view.ranges.items()),
        sqnr=_db(view.sqnr_db),
        alone=_db(view.local_sqnr_db),
        gain=_gain(view),
        pictures=tuple(histogram_svg(what, found) for what, found in view.ranges.items()),
    )


def _row(what: str, found: DynamicRange) -> RangeRow:
    loss = "not counted" if found.precision_loss is None else f"{found.precision_loss:,}"
    return RangeRow(
        what,
        number(found.minimum),
        number(found.maximum),
        type_text(found),
        f"{found.overflow:,}",
        f"{found.underflow:,}",
        loss,
    )


def _db(value: float | None) -> str:
    if value is None:
        return text.MISSING
    if value == float("inf"):
        return "exact"
    return f"{value:.1f}".replace("-", text.MINUS)


def _gain(view: LayerView) -> str:
    if view.gain_db is None:
        return text.MISSING
    error = "" if view.gain_error_db is None else f" ± {view.gain_error_db:.2f}"
    return f"{view.gain_db:+.2f}{error}".replace("-", text.MINUS)
