"""How a layer's integers differ, as a picture: differences in steps on the left, where they lie on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harness.emulation.diagnose.values import HISTOGRAM_EDGE_LSB, LayerDifference
from harness.report.svg import element
from harness.report.text import MINUS, shortened

WIDTH, HEIGHT = 700, 216
_TOP, _BASE = 60.0, 164.0
#: Left and right edge of the two panels.
_STEPS, _CHANNELS = (16.0, 336.0), (384.0, 684.0)
#: More columns than this would be slivers; channels are then drawn in groups.
_MOST_COLUMNS = 75
#: A column that holds one value in a million is still a column.
_LEAST = 2.0

#: Of the picture alone; a page has the same variables.
STYLE = """
.difference { --page: #ffffff; --ink: #1a1d21; --quiet: #52585f; --rule: #d4d8dd; --same: #b9c0c8; --off: #a8420b;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) {
  .difference { --page: #14171a; --ink: #e8eaed; --quiet: #a9b0b8; --rule: #3a4047; --same: #59616a; --off: #f5a46c; }
}
.difference .page { fill: var(--page); } .difference text { fill: var(--ink); }
.difference .quiet, .difference .tick { fill: var(--quiet); } .difference .tick { font-size: 11px; }
.difference .name { font-weight: 600; font-size: 13px; } .difference .rule { stroke: var(--rule); }
.difference .same { fill: var(--same); } .difference .off { fill: var(--off); }
"""


def difference_svg(layer: LayerDifference) -> Markup:
    """The picture, for a page that has `STYLE`.

    Args:
        layer: one that differs.
    """
    return element(
        "svg",
        Markup("").join(_parts(layer)),
        class_="difference",
        role="img",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        aria_label=described(layer),
    )


def difference_file(layer: LayerDifference) -> str:
    """The picture as a file of its own."""
    parts = [
        element("style", Markup(STYLE)),  # noqa: S704 (our own words)
        element("rect", width=WIDTH, height=HEIGHT, class_="page"),
        *_parts(layer),
    ]
    content = element(
        "svg",
        Markup("").join(parts),
        xmlns="http://www.w3.org/2000/svg",
        class_="difference",
        role="img",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        aria_label=described(layer),
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{content}\n'


def described(layer: LayerDifference) -> str:
    """The picture in words."""
    steps = ", ".join(f"{_lsb(lsb)}: {count:,}" for lsb, count in sorted(layer.histogram.items()))
    return f"Layer {layer.layer}: board minus reference in LSB and how many values: {steps}"


def _parts(layer: LayerDifference) -> list[Markup]:
    share = f"{layer.differing:,} of {layer.values:,} values differ, largest {layer.max_lsb:,} LSB"
    parts = [
        element("text", shortened(f"{layer.layer} ({layer.op_type})", 60), x=_STEPS[0], y=16, class_="name"),
        element("text", share, x=_CHANNELS[1], y=16, text_anchor="end", class_="quiet"),
    ]
    return parts + _histogram(layer) + _by_channel(layer)


def _histogram(layer: LayerDifference) -> list[Markup]:
    found = layer.histogram
    reach = max(3, *(abs(lsb) for lsb in found)) if found else 3
    columns = range(-reach, reach + 1)
    wide = (_STEPS[1] - _STEPS[0]) / len(columns)
    most = max(found.values(), default=1)
    parts = [element("text", f"board {MINUS} reference, LSB (heights: logarithm)", x=_STEPS[0], y=38, class_="quiet")]
    every = max(1, math.ceil(26 / wide))
    for number, lsb in enumerate(columns):
        left = _STEPS[0] + number * wide
        count = found.get(lsb, 0)
        if count:
            height = max(_LEAST, (_BASE - _TOP) * math.log1p(count) / math.log1p(most))
            parts.append(_column(left, wide, height, "off" if lsb else "same", f"{_lsb(lsb)} LSB: {count:,}"))
            label = f"{count:,}"
            if len(label) * 6.4 < wide + 8:
                x, y = left + wide / 2, _BASE - height - 4
                parts.append(element("text", label, x=x, y=y, text_anchor="middle", class_="tick"))
        if lsb % every == 0:
            x = left + wide / 2
            parts.append(element("text", _lsb(lsb), x=x, y=_BASE + 16, text_anchor="middle", class_="tick"))
    parts.append(element("line", x1=_STEPS[0], y1=_BASE, x2=_STEPS[1], y2=_BASE, class_="rule"))
    return parts


def _by_channel(layer: LayerDifference) -> list[Markup]:
    left, right = _CHANNELS
    if len(layer.channels) < 2:
        return [element("text", "no channels to tell apart", x=left, y=38, class_="quiet")]
    each = layer.values / len(layer.channels)
    columns = _grouped(layer.channels)
    size = math.ceil(len(layer.channels) / len(columns))
    most = max(layer.channels)
    wide = (right - left) / len(columns)
    heading = f"share of differing values by channel, at most {100 * most / each:.3g} %"
    parts = [element("text", heading, x=left, y=38, class_="quiet")]
    for number, count in enumerate(columns):
        if count:
            first = number * size
            last = min(len(layer.channels), first + size) - 1
            which = f"channel {first}" if size == 1 else f"channels {first} to {last}, at most"
            height = max(_LEAST, (_BASE - _TOP) * count / most)
            parts.append(_column(left + number * wide, wide, height, "off", f"{which}: {count:,}"))
    parts.append(element("line", x1=left, y1=_BASE, x2=right, y2=_BASE, class_="rule"))
    parts.append(element("text", "0", x=left + min(wide, 12) / 2, y=_BASE + 16, text_anchor="middle", class_="tick"))
    last_channel = f"{len(layer.channels) - 1}"
    parts.append(element("text", last_channel, x=right, y=_BASE + 16, text_anchor="end", class_="tick"))
    touched = sum(1 for count in layer.channels if count)
    text = f"in {touched:,} of {len(layer.channels):,} channels"
    if size > 1:
        text += f", drawn in groups of {size}"
    parts.append(element("text", text, x=left, y=_BASE + 38, class_="quiet"))
    return parts


def _grouped(channels: Sequence[int]) -> list[int]:
    """The largest count of each group of neighbours, in at most so many groups as can be drawn."""
    size = math.ceil(len(channels) / _MOST_COLUMNS)
    return [max(channels[start : start + size]) for start in range(0, len(channels), size)]


def _column(left: float, wide: float, height: float, kind: str, hint: str) -> Markup:
    gap = min(1.0, 0.1 * wide)
    title = element("title", hint)
    return element(
        "rect", title, x=left + gap, y=_BASE - height, width=wide - 2 * gap, height=height, class_=kind
    )  # fmt: skip


def _lsb(lsb: int) -> str:
    """A difference with its sign; the ends hold all beyond."""
    sign = "+" if lsb > 0 else MINUS if lsb < 0 else ""
    beyond = "≥" if lsb >= HISTOGRAM_EDGE_LSB else "≤" if lsb <= -HISTOGRAM_EDGE_LSB else ""
    return f"{beyond}{sign}{abs(lsb)}"
