"""A board over the run: temperature, power and clock, its blocks beneath, rejected pairs shaded across."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from harness.judge.rails import drawn
from harness.judge.rejected import rejected_pairs
from harness.judge.throttling import clock_mhz
from harness.record.figure import Network
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord, TelemetryRecord
from harness.report import svg
from harness.report.chart import Chart, tick_label
from harness.report.text import plain, significant

#: Samples further than this from the first or last block are another day's, or of a clock that was set meanwhile.
_REACH_S = 600.0
#: Steps of a curve: more than a screen can tell apart. Each is drawn from the lowest to the highest of its samples.
_STEPS = 200
_PANEL, _HEAD, _GAP, _STRIP = 64.0, 32.0, 10.0, 40.0
#: Rejected pairs closer than this, percent of the width, are shaded as one.
_CLOSE = 0.15


@dataclass(frozen=True, slots=True)
class _Panel:
    """One quantity over time: `values` at `at_s` seconds after the first sample."""

    title: str
    unit: str
    at_s: NDArray[np.float64]
    values: NDArray[np.float64]


def telemetry_chart(name: str, targets: Sequence[TargetRecord], number: int) -> Chart | None:
    """What a board told while it was timed; None where it told nothing and no pair was rejected.

    Args:
        name: of the board.
        targets: its settings in a sweep, or the one target.
        number: makes the ids unique.
    """
    blocks = [block for target in targets for block in target.blocks if _usable(block)]
    if not blocks:
        return None
    first = min(block.started_unix_s for block in blocks) - _REACH_S
    last = max(block.started_unix_s + block.duration_s for block in blocks) + _REACH_S
    points = sorted(
        (p for target in targets for p in target.telemetry if first <= p.unix_s <= last), key=lambda p: p.unix_s
    )
    starts = [block.started_unix_s for block in blocks] + [point.unix_s for point in points]
    ends = [block.started_unix_s + block.duration_s for block in blocks] + [point.unix_s for point in points]
    zero, whole = min(starts), max(ends) - min(starts)
    panels = list(_panels(points, zero, _clocks(targets)))
    bands = [band for target in targets for band in _rejected(target, zero)]
    if not (panels or bands) or whole <= 0:
        return None
    scale = svg.nice_scale([0.0, whole], bounds=(0.0, whole))
    top, parts = 4.0, list[Markup]()
    bottom = top + len(panels) * (_HEAD + _PANEL + _GAP) + _STRIP
    for left, right in _joined([(scale.at(a), scale.at(b)) for a, b in bands]):
        parts.append(svg.bar(left, right, (top + bottom) / 2, bottom - top, "rejected"))
    for panel in panels:
        parts += _draw(panel, scale, top)
        top += _HEAD + _PANEL + _GAP
    for block in blocks:
        lower = block.network is Network.QUANTIZED
        begin = block.started_unix_s - zero
        strip = svg.bar(
            scale.at(begin),
            scale.at(begin + block.duration_s),
            top + (24 if lower else 8),
            12,
            "strip quantized" if lower else "strip float",
        )
        parts.append(strip)
    labels = [tick_label(tick, scale) for tick in scale.ticks]
    parts += [svg.text(scale.at(tick), bottom + 16, label, "tick", "middle") for tick, label in _ticks(scale, labels)]
    parts.append(svg.text(100 - svg.MARGIN, bottom + 32, "seconds", "axis", "end"))
    told = _told(targets)
    title = f"{plain(name)} over the run"
    rows = tuple(
        (
            f"{panel.title}, {panel.unit}",
            *(significant(float(value), 4) for value in np.quantile(panel.values, (0.0, 0.5, 1.0))),
            f"{panel.values.size:,}",
        )
        for panel in panels
    )
    identity = f"telemetry-{number}"
    described = "; ".join(f"{row[0]}: {row[1]} to {row[3]}" for row in rows)
    strips = "Strips: blocks of Floating-Point above, of Quantized below."
    return Chart(
        identity,
        title,
        f"{strips} {told}",
        svg.drawing(round(bottom + 38), title, f"{described}. {told}".strip(". "), identity, parts),
        ("reading", "lowest", "median", "highest", "readings"),
        rows or (("no reading", "", "", "", "0"),),
    )


def _usable(block: BlockRecord) -> bool:
    return math.isfinite(block.started_unix_s) and math.isfinite(block.duration_s) and 0 < block.duration_s < _REACH_S


def _ticks(scale: svg.Scale, labels: Sequence[str]) -> Iterator[tuple[float, str]]:
    yield from zip(scale.ticks, labels, strict=True)


def _clocks(targets: Sequence[TargetRecord]) -> list[str]:
    """Which clocks were watched: those that warm-up settled at, else the one that the board names."""
    found = dict.fromkeys(clock.name for target in targets for clock in target.steady_clocks.values())
    return list(found) or [""]


def _panels(points: Sequence[TelemetryRecord], zero: float, clocks: Sequence[str]) -> Iterator[_Panel]:
    def panel(title: str, unit: str, read: Callable[[TelemetryRecord], float | None]) -> Iterator[_Panel]:
        told = [(point.unix_s - zero, value) for point in points if (value := read(point)) is not None]
        if len(told) > 1:
            yield _Panel(title, unit, np.array([at for at, _ in told]), np.array([value for _, value in told]))

    yield from panel("Hottest zone", "°C", _hottest)
    rails = dict.fromkeys(found[1] for point in points if (found := drawn(point)) is not None)
    for rail in list(rails)[:2]:  # a board that changes its total between samples has two curves, not one that jumps
        yield from panel(f"Power, {plain(rail)}", "W", lambda point, rail=rail: _power_w(point, rail))  # type: ignore[misc]
    for name in clocks:
        shown = f"Clock, {plain(name)}" if name else "Clock"
        yield from panel(shown, "MHz", lambda point, name=name: clock_mhz(point, name))  # type: ignore[misc]


def _hottest(point: TelemetryRecord) -> float | None:
    return max((value for value in point.temperature_c.values() if math.isfinite(value)), default=None)


def _power_w(point: TelemetryRecord, rail: str) -> float | None:
    found = drawn(point)
    return found[0] / 1e3 if found is not None and found[1] == rail else None


def _draw(panel: _Panel, scale: svg.Scale, top: float) -> list[Markup]:
    height = svg.nice_scale(panel.values.tolist(), at_most=3)
    floor = top + _HEAD + _PANEL

    def y(value: float) -> float:
        return floor - _PANEL * height.share(value)

    parts = [svg.text(svg.MARGIN, top + 13, f"{panel.title}, {panel.unit}", "label")]
    for tick in (height.ticks[0], height.ticks[-1]):
        parts.append(svg.line(0, y(tick), 100, y(tick), "grid"))
        parts.append(svg.text(0, y(tick) - 2, tick_label(tick, height), "tick"))
    before: tuple[float, float] | None = None
    for at_s, low, middle, high in _stepped(panel):
        x = scale.at(at_s)
        if high > low:
            parts.append(svg.stroke(x, y(low), x, y(high), "curve-range"))
        if before is not None:
            parts.append(svg.stroke(*before, x, y(middle), "curve"))
        before = (x, y(middle))
    return parts


def _stepped(panel: _Panel) -> Iterator[tuple[float, float, float, float]]:
    """(time, lowest, median, highest) of each step that holds samples."""
    span = max(float(panel.at_s[-1] - panel.at_s[0]), 1e-9)
    step = np.minimum((_STEPS * (panel.at_s - panel.at_s[0]) / span).astype(int), _STEPS - 1)
    for number in np.unique(step):
        here = step == number
        low, middle, high = np.quantile(panel.values[here], (0.0, 0.5, 1.0))
        yield float(panel.at_s[here].mean()), float(low), float(middle), float(high)


def _rejected(target: TargetRecord, zero: float) -> Iterator[tuple[float, float]]:
    """From the start to the end of each rejected pair, s."""
    for pair in rejected_pairs(target.blocks):
        own = [block for block in target.blocks if block.pair == pair and _usable(block)]
        if own:
            yield (
                min(block.started_unix_s for block in own) - zero,
                max(block.started_unix_s + block.duration_s for block in own) - zero,
            )


def _joined(bands: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bands that touch, as one: shades would add up."""
    found: list[tuple[float, float]] = []
    for left, right in sorted(bands):
        if found and left - found[-1][1] < _CLOSE:
            found[-1] = (found[-1][0], max(found[-1][1], right))
        else:
            found.append((left, right))
    return found


def _told(targets: Sequence[TargetRecord]) -> str:
    """How many pairs were rejected, and why."""
    reasons: Counter[str] = Counter()
    pairs = rejected = 0
    for target in targets:
        pairs += len({block.pair for block in target.blocks})
        own = rejected_pairs(target.blocks)
        rejected += len(own)
        reasons.update(reason for told in own.values() for reason in told)
    if not rejected:
        return f"None of {pairs} pairs was rejected."
    said = ", ".join(f"{plain(reason)} ({count})" for reason, count in reasons.most_common())
    return f"Shaded: {rejected} of {pairs} pairs, rejected: {said}."
