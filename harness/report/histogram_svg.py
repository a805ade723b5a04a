"""The dynamic range of a tensor as a picture: most-significant bits, what the 8-bit window holds, what it costs.

The highest bit stands left, as digits are written. Columns are blue, darker (on a dark page brighter) the more values
they hold; outside the window they are grey. Colours come from classes: a page has them in its style sheet, a file of
its own carries them along, so both are readable on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from markupsafe import Markup

from harness.quantize.dynamic_range import DynamicRange
from harness.report.svg import element
from harness.report.text import significant

WIDTH, HEIGHT = 330, 212
_LEFT, _RIGHT, _TOP, _BASE = 10.0, 320.0, 44.0, 126.0
#: More columns than this would be slivers; what lies below is drawn in the last one.
_MOST_BITS = 40
#: A strip narrower than this is none.
_HAIR = 0.5
#: The least share of the fullest column for each shade, the strongest first; anything above zero gets the last.
_SHADES = (0.5, 0.2, 0.05, 0.01, 0.0)
#: Where a bit's column begins.
_Place = Callable[[float], float]
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

#: Of the picture alone; a page may set the variables itself.
STYLE = """
.histogram { --page: #ffffff; --ink: #1a1d21; --quiet: #52585f; --rule: #d4d8dd; --band: #eceef1; --grey: #8d949c;
  --blue1: #08519c; --blue2: #2f7dc0; --blue3: #5ea3d8; --blue4: #93c1e6; --blue5: #bcd8ef;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) {
  .histogram { --page: #14171a; --ink: #e8eaed; --quiet: #a9b0b8; --rule: #3a4047; --band: #262b30; --grey: #747c85;
    --blue1: #9ccbf6; --blue2: #6cabe6; --blue3: #4a8ac8; --blue4: #356a9e; --blue5: #284f76; }
}
.histogram .page { fill: var(--page); } .histogram .band { fill: var(--band); }
.histogram text { fill: var(--ink); } .histogram .quiet { fill: var(--quiet); }
.histogram .name { font-weight: 600; font-size: 13px; } .histogram .tick { fill: var(--quiet); font-size: 11px; }
.histogram .rule { stroke: var(--rule); } .histogram .bracket { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.histogram .mark { stroke: var(--ink); stroke-width: 1.2; fill: var(--ink); } .histogram .mark.open { fill: none; }
.histogram .grey { fill: var(--grey); }
.histogram .b1 { fill: var(--blue1); } .histogram .b2 { fill: var(--blue2); } .histogram .b3 { fill: var(--blue3); }
.histogram .b4 { fill: var(--blue4); } .histogram .b5 { fill: var(--blue5); }
"""


def histogram_svg(name: str, found: DynamicRange) -> Markup:
    """One picture, for a page that has `STYLE`.

    Args:
        name: what it shows, e.g. "Weights".
        found: the dynamic range.
    """
    return element(
        "svg",
        Markup("").join(_panel(name, found)),
        class_="histogram",
        role="img",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        aria_label=described(name, found),
    )


def layer_svg(layer: str, op_type: str, ranges: Mapping[str, DynamicRange]) -> str:
    """A file of its own: the pictures of a layer side by side."""
    head = 30
    width = WIDTH * max(1, len(ranges))
    parts = [
        element("style", Markup(STYLE)),  # noqa: S704 (our own words)
        element("rect", width=width, height=HEIGHT + head, class_="page"),
        element("text", f"{layer} ({op_type})", x=_LEFT, y=20, class_="name"),
    ]
    for number, (what, found) in enumerate(ranges.items()):
        inside = Markup("").join(_panel(what, found))
        parts.append(element("svg", inside, x=number * WIDTH, y=head, width=WIDTH, height=HEIGHT))
    described_all = "; ".join(described(what, found) for what, found in ranges.items())
    content = element(
        "svg",
        Markup("").join(parts),
        xmlns="http://www.w3.org/2000/svg",
        class_="histogram",
        role="img",
        viewBox=f"0 0 {width} {HEIGHT + head}",
        width=width,
        height=HEIGHT + head,
        aria_label=f"Layer {layer}. {described_all}",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{content}\n'


def described(name: str, found: DynamicRange) -> str:
    """The picture in words."""
    return (
        f"{name}: {type_text(found)}; minimum {number(found.minimum)}, maximum {number(found.maximum)}; "
        + ", ".join(losses(found))
    )


def type_text(found: DynamicRange) -> str:
    """The integer type and the bits that it holds: `int8, 2³ … 2⁻³`."""
    highest, lowest = found.window
    return f"{'uint8' if found.unsigned else 'int8'}, {power(highest)} … {power(lowest)}"


def losses(found: DynamicRange) -> tuple[str, str, str]:
    """Overflow, underflow and precision loss in words; what is not counted is said to be."""
    total = sum(found.counts.values()) + found.zeros
    loss = "precision loss not counted"
    if found.precision_loss is not None:
        loss = f"precision loss {_share(found.precision_loss, total)}"
    return f"overflow {_share(found.overflow, total)}", f"underflow {_share(found.underflow, total)}", loss


def number(value: float) -> str:
    """A bound of a range."""
    return significant(value, 4) if math.isfinite(value) else "none"


def power(exponent: int) -> str:
    """2 to an exponent, with superscript digits."""
    return "2" + str(exponent).translate(_SUPERSCRIPT)


def shade(count: int, fullest: int) -> int:
    """1 (many values) … 5 (few) for a column that holds something."""
    share = count / fullest if fullest else 0.0
    return next(index for index, least in enumerate(_SHADES, start=1) if share > least)


def _share(count: int, total: int) -> str:
    if not count:
        return "0"
    percent = 100 * count / total
    shown = "<0.01" if percent < 0.01 else f"{percent:.2g}" if percent < 99.5 else "100"
    return f"{count:,} ({shown} %)"


def _panel(name: str, found: DynamicRange) -> list[Markup]:
    highest, lowest = found.window
    top = max([highest, *found.counts])
    bottom = max(min([lowest, *found.counts]), top - _MOST_BITS + 1)
    columns = dict.fromkeys(range(top, bottom - 1, -1), 0)
    for bit, count in found.counts.items():
        columns[max(bit, bottom)] += count
    wide = (_RIGHT - _LEFT) / len(columns)

    def left(bit: float) -> float:
        """Where the column of a bit begins; a fraction lies inside its column, larger values to the left."""
        return _LEFT + (top - bit) * wide

    parts = [
        element("text", name, x=_LEFT, y=14, class_="name"),
        element("text", type_text(found), x=_RIGHT, y=14, text_anchor="end", class_="quiet"),
    ]
    begin, end = left(max(highest, bottom)), left(max(lowest, bottom)) + wide
    parts += [
        element("rect", x=x1, y=_TOP - 4, width=x2 - x1, height=_BASE - _TOP + 4, class_="band")
        for x1, x2 in ((_LEFT, begin), (end, _RIGHT))
        if x2 - x1 > _HAIR
    ]
    parts += _columns(columns, found, left, wide)
    parts.append(element("line", x1=_LEFT, y1=_BASE, x2=_RIGHT, y2=_BASE, class_="rule"))
    parts.append(element("path", d=f"M {begin:.1f} 36 V 28 H {end:.1f} V 36", class_="bracket"))
    parts += _extremes(found, left, wide, bottom)
    every = max(1, math.ceil(30 / wide))
    for bit in columns:
        if (top - bit) % every == 0:
            below = "≤" if bit == bottom and min(found.counts, default=bit) < bit else ""
            label = f"{below}{power(bit)}"
            parts.append(
                element("text", label, x=left(bit) + wide / 2, y=_BASE + 26, text_anchor="middle", class_="tick")
            )
    overflow, underflow, loss = losses(found)
    parts += [
        element("path", d=f"M {_LEFT} 173 h 8 l -4 -7 z", class_="mark open"),
        element("text", f"min {number(found.minimum)}", x=_LEFT + 13, y=174),
        element("path", d="M 118 173 h 8 l -4 -7 z", class_="mark"),
        element("text", f"max {number(found.maximum)}", x=131, y=174),
        element("text", f"zeros {found.zeros:,}", x=_RIGHT, y=174, text_anchor="end"),
        element("text", f"{overflow} · {underflow}", x=_LEFT, y=191),
        element("text", loss, x=_LEFT, y=207),
    ]
    return parts


def _columns(columns: Mapping[int, int], found: DynamicRange, left: _Place, wide: float) -> list[Markup]:
    fullest = max(columns.values(), default=0)
    parts = []
    for bit, count in columns.items():
        if not count:
            continue
        # A column that holds one value in a million is still a column.
        height = max(2.0, (_BASE - _TOP) * count / fullest)
        kind = "grey" if found.is_grey(bit) else f"b{shade(count, fullest)}"
        gap = min(1.0, 0.1 * wide)
        hint = element("title", f"{power(bit)}: {count:,}")
        parts.append(
            element("rect", hint, x=left(bit) + gap, y=_BASE - height, width=wide - 2 * gap, height=height, class_=kind)
        )
    return parts


def _extremes(found: DynamicRange, left: _Place, wide: float, bottom: int) -> list[Markup]:
    """Triangles under the columns where |minimum| (open) and |maximum| (full) lie."""
    parts = []
    for value, kind in ((found.minimum, "mark open"), (found.maximum, "mark")):
        if value and math.isfinite(value):
            x = left(max(math.log2(abs(value)), bottom)) + wide
            parts.append(element("path", d=f"M {x:.1f} {_BASE + 3} l 4.5 8 h -9 z", class_=kind))
    return parts
