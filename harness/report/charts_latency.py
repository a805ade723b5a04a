"""How latency is distributed: a histogram and a box for each network, and the medians of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from harness.judge.rejected import clean_pairs
from harness.judge.statistics import quantile_point
from harness.record.figure import Network
from harness.record.target import TargetRecord
from harness.report import svg
from harness.report.chart import Chart, of_parts, parts_of, tick_label
from harness.report.text import plain, significant

_BOTH = (Network.FLOAT, Network.QUANTIZED)
_CLASS = {Network.FLOAT: "float", Network.QUANTIZED: "quantized"}

#: Columns of a histogram over the whole axis.
_BINS = 60
#: A sweep whose medians differ more than this is drawn on a logarithmic axis.
_WIDE = 4.0
#: More rows than this are drawn lower, without the medians of their blocks.
_ROOMY = 6


@dataclass(frozen=True, eq=False)
class _Distribution:
    """The latencies of one network at one setting, ms, block by block."""

    label: str
    network: Network
    samples: list[NDArray[np.float64]]

    @cached_property
    def spread(self) -> tuple[float, ...]:
        return _spread(self.samples)

    @cached_property
    def medians(self) -> list[float]:
        return [float(np.median(block)) for block in self.samples]


def latency_charts(name: str, targets: Sequence[TargetRecord], number: int) -> list[Chart]:
    """How the latencies of both networks are distributed on one board; none where nothing was timed.

    Args:
        name: of the board.
        targets: its settings, or the one target.
        number: makes the ids unique.
    """
    shown = [
        _Distribution(_label(target, network, name), network, samples)
        for target in targets
        for network in _BOTH
        if (samples := _samples_ms(target, network))
    ]
    if not shown:
        return []
    edges = [value for one in shown for value in (*one.spread, *one.medians)]
    middles = [one.spread[2] for one in shown]
    wide = len(targets) > 1 and min(edges) > 0 and max(middles) > _WIDE * min(middles)
    scale = svg.log_scale(edges) if wide else svg.nice_scale(edges, bounds=(0.0, np.inf))
    rejected = sum(len(t.blocks) - len(clean_pairs(t.blocks)) for t in targets if clean_pairs(t.blocks))
    pages = parts_of(shown)
    title = f"Latency on {plain(name)} ({targets[0].source.value})"
    return [
        _chart(page, scale, f"{title}{of_parts(i, len(pages))}", f"latency-{number}-{i}", rejected)
        for i, page in enumerate(pages, start=1)
    ]


def _chart(shown: Sequence[_Distribution], scale: svg.Scale, title: str, identity: str, rejected: int) -> Chart:
    low = len(shown) > _ROOMY
    row_height, top = (62 if low else 92), 6
    bottom = top + row_height * len(shown)
    labels = [tick_label(tick, scale) for tick in scale.ticks]
    parts = svg.axis(scale, top, bottom, labels, "latency, ms (logarithmic)" if scale.logarithmic else "latency, ms")
    for index, one in enumerate(shown):
        y, kind = top + row_height * index, _CLASS[one.network]
        parts.append(svg.text(svg.MARGIN, y + 16, one.label, "label"))
        parts += _histogram(scale, np.concatenate(one.samples), y + (38 if low else 50), kind, 16 if low else 26)
        parts += _box(scale, one.spread, y + (48 if low else 62), kind)
        if not low:
            parts += [svg.dot(scale.at(median), y + 80, 3, f"block {kind}") for median in one.medians]
    rows = tuple(
        (
            one.label,
            *(significant(value, 4) for value in one.spread),
            f"{significant(min(one.medians), 4)} to {significant(max(one.medians), 4)}",
            f"{sum(block.size for block in one.samples):,}",
            f"{len(one.medians)}",
        )
        for one in shown
    )
    described = "; ".join(f"{row[0]}: p5 {row[1]} ms, p50 {row[3]} ms, p95 {row[5]} ms" for row in rows)
    return Chart(
        identity,
        title,
        "Columns: how often; what lies beyond an end of the axis is not drawn. Box: the middle half of all iterations, "
        "its bar the median. Line: p5 to p95."
        + ("" if low else " Dots: the median of each block.")
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
    if everything.size == 1:  # of one value no quantile is estimated
        return (float(everything[0]),) * 5
    return tuple(quantile_point(everything, p) for p in (0.05, 0.25, 0.5, 0.75, 0.95))


def _histogram(scale: svg.Scale, values: NDArray[np.float64], base: float, kind: str, most_px: int) -> list[Markup]:
    """Columns of equal width on the axis; their heights are relative to the highest."""
    if scale.logarithmic:
        edges = np.geomspace(scale.low, scale.high, _BINS + 1)
    else:
        edges = np.linspace(scale.low, scale.high, _BINS + 1)
    counts, _ = np.histogram(values, edges)
    most = int(counts.max(initial=0))
    parts = []
    for number in np.flatnonzero(counts):
        height = max(0.8, most_px * counts[number] / most)
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
