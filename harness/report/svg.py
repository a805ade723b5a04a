"""A little SVG: horizontal marks on one scale, drawn with percentages so that text keeps its size at every width.

Positions along x are percentages of the drawing, everything else is pixels; a mark is centred by a transform. Colours
come from the page's style sheet through classes, so light, dark and print need no second drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.report.text import plain

#: Room left and right of the scale, percent: half a tick's number on a narrow screen.
MARGIN = 4.0


#: A spread or a value below this is taken for zero.
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale from values to percentages of the drawing's width.

    Args:
        low: value at the left end.
        high: value at the right end, greater than `low`.
        ticks: where grid lines and their numbers stand.
        logarithmic: equal ratios are equally far apart; then `low` is above 0.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values outside the scale stay at its ends."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)

    def at(self, value: float) -> float:
        """Percent from the left."""
        return MARGIN + (100 - 2 * MARGIN) * self.share(value)


def nice_scale(values: Iterable[float], at_most: int = 6, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Scale:
    """A scale over all finite `values` with round ticks (1, 2 or 5 times a power of ten apart).

    Args:
        values: what must be inside.
        at_most: how many ticks.
        bounds: what the scale never leaves, e.g. (0, 1) for a fraction.

    Raises:
        ValueError: no finite value.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        msg = "a scale needs a value"
        raise ValueError(msg)
    low, high = min(finite), max(finite)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, _NOTHING):
        pad = 0.05 * largest if largest > _NOTHING else 1.0
        low, high = low - pad, high + pad
    step = _round_step((high - low) / max(1, at_most - 1))
    low = max(bounds[0], math.floor(low / step + 1e-9) * step)
    high = min(bounds[1], math.ceil(high / step - 1e-9) * step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(float(f"{i * step:.12g}") for i in range(first, last + 1)))


def log_scale(values: Iterable[float], at_most: int = 8) -> Scale:
    """A logarithmic scale over all finite `values` above 0, its ticks 1, 2 or 5 times a power of ten.

    Args:
        values: what must be inside.
        at_most: how many ticks, the ends aside.

    Raises:
        ValueError: no such value.
    """
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        msg = "a logarithmic scale needs a value above 0"
        raise ValueError(msg)
    first, last = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
    steps = sorted(factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5))
    low = max((step for step in steps if step <= min(finite) * (1 + 1e-9)), default=steps[0])
    high = min((step for step in steps if step >= max(finite) * (1 - 1e-9)), default=steps[-1])
    if high <= low:
        high = 2 * low
    inside = [step for step in steps if low <= step <= high]
    if len(inside) > at_most:
        powers = [step for step in inside if math.isclose(math.log10(step), round(math.log10(step)), abs_tol=1e-9)]
        inside = powers[:: math.ceil(len(powers) / at_most)] or inside[:1]
    return Scale(low, high, tuple(float(f"{step:.12g}") for step in inside), logarithmic=True)


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))


def element(tag: str, content: Markup | str = "", /, **attributes: str | float) -> Markup:
    """One element; every attribute and text is escaped. `class_` and `text_anchor` become `class` and `text-anchor`."""
    pairs = ((name.rstrip("_").replace("_", "-"), _attribute(value)) for name, value in attributes.items())
    joined = Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in pairs)
    body = content if isinstance(content, Markup) else escape(plain(content))
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), joined, body)  # noqa: S704 - tags are our own words


def _attribute(value: str | float) -> str:
    return plain(value) if isinstance(value, str) else f"{value:.6g}"


def drawing(height: int, title: str, description: str, identity: str, parts: Sequence[Markup]) -> Markup:
    """The `<svg>` element with its accessible name and description.

    Args:
        height: pixels.
        title: short name.
        description: what the drawing shows, in words.
        identity: prefix of the two ids, unique in the page.
        parts: elements inside.
    """
    named = [
        element("title", title, id=f"{identity}-title"),
        element("desc", description, id=f"{identity}-desc"),
    ]
    return element(
        "svg",
        Markup("").join([*named, *parts]),
        class_="chart",
        role="img",
        width="100%",
        height=height,
        aria_labelledby=f"{identity}-title {identity}-desc",
    )


def stroke(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A short line of a curve: `line` with fewer digits, of which a curve has hundreds."""
    return element("line", x1=f"{x1:.2f}%", y1=round(y1, 1), x2=f"{x2:.2f}%", y2=round(y2, 1), class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line between (percent, pixel) points."""
    return element("line", x1=f"{x1:.3f}%", y1=y1, x2=f"{x2:.3f}%", y2=y2, class_=class_)


def text(x: float, y: float, content: str, class_: str, anchor: str = "start") -> Markup:
    """Text at (percent, pixel), with its baseline at y."""
    return element("text", content, x=f"{x:.3f}%", y=y, class_=class_, text_anchor=anchor)


def dot(x: float, y: float, radius: float, class_: str) -> Markup:
    """A circle."""
    return element("circle", cx=f"{x:.3f}%", cy=y, r=radius, class_=class_)


def square(x: float, y: float, side: float, class_: str) -> Markup:
    """A square centred at (percent, pixel)."""
    shift = f"translate({-side / 2:g} {-side / 2:g})"
    return element("rect", x=f"{x:.3f}%", y=y, width=side, height=side, transform=shift, class_=class_)


def bar(x1: float, x2: float, y: float, height: float, class_: str) -> Markup:
    """A box from x1 to x2 percent, centred on y."""
    width = f"{max(x2 - x1, 0.0):.3f}%"
    return element("rect", x=f"{x1:.3f}%", y=y - height / 2, width=width, height=height, class_=class_)


def axis(scale: Scale, top: float, bottom: float, labels: Sequence[str], name: str) -> list[Markup]:
    """Grid lines with their numbers below, and what is on the axis at its right end below them."""
    parts: list[Markup] = []
    for tick, label in zip(scale.ticks, labels, strict=True):
        x = scale.at(tick)
        parts += [line(x, top, x, bottom, "grid"), text(x, bottom + 14, label, "tick", "middle")]
    return [*parts, text(100 - MARGIN, bottom + 30, name, "axis", "end")]
