"""Where the error of each int8 network arises: the SQNR of its layers, in the network's order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harness.record.networks import LayerSqnr, QuantizedRecord
from harness.record.run import RunRecord
from harness.report import svg
from harness.report.chart import Chart, tick_label
from harness.report.text import plain, shortened, significant

_HEIGHT, _TOP = 120.0, 14.0
#: More columns than this would be slivers; layers are then drawn in groups, each by its worst.
_MOST_COLUMNS = 120
_NAMED = 3


def layer_charts(record: RunRecord) -> list[Chart]:
    """One drawing for each int8 network whose layers could be told apart."""
    networks: dict[str, tuple[QuantizedRecord, list[str]]] = {}
    for target in record.targets:
        made = target.quantized
        if made is not None and any(layer.sqnr_db is not None for layer in made.layers):
            networks.setdefault(made.digest, (made, []))[1].append(target.entry_name)
    return [
        _chart(made, list(dict.fromkeys(names)), number)
        for number, (made, names) in enumerate(networks.values(), start=1)
    ]


def _chart(made: QuantizedRecord, targets: Sequence[str], number: int) -> Chart:
    groups = _grouped(made.layers)
    known = [layer for layer in made.layers if layer.sqnr_db is not None]
    values = [layer.sqnr_db for layer in known if layer.sqnr_db is not None]
    scale = svg.nice_scale([0.0, *values], at_most=5)
    bottom = _TOP + _HEIGHT

    def y(sqnr_db: float) -> float:
        return bottom - _HEIGHT * scale.share(sqnr_db)

    parts: list[Markup] = []
    for tick in scale.ticks:
        parts.append(svg.line(0, y(tick), 100, y(tick), "grid"))
        parts.append(svg.text(0, y(tick) - 3, tick_label(tick, scale), "tick"))
    wide = (100 - 2 * svg.MARGIN) / len(groups)
    lowest = sorted(known, key=lambda layer: layer.sqnr_db or 0.0)[:_NAMED]
    for index, worst in enumerate(groups):
        if worst is None or worst.sqnr_db is None:
            continue
        left = svg.MARGIN + wide * index
        zero, end = y(0.0), y(worst.sqnr_db)
        kind = "layer worst" if worst is lowest[0] else "layer"
        # a layer at 0 dB, or below, has a column too
        middle, height = (zero + end) / 2, max(abs(zero - end), 1.0)
        parts.append(svg.bar(left + 0.12 * wide, left + 0.88 * wide, round(middle, 2), round(height, 2), kind))
    parts.append(svg.text(svg.MARGIN, bottom + 14, "first layer", "tick"))
    parts.append(svg.text(100 - svg.MARGIN, bottom + 14, "last layer", "tick", "end"))
    rows = tuple(
        (plain(layer.layer), plain(layer.op_type), "equal" if layer.sqnr_db is None else significant(layer.sqnr_db))
        for layer in made.layers
    )
    named = ", ".join(f"{shortened(one.layer, 40)} {significant(one.sqnr_db or 0.0)} dB" for one in lowest)
    grouped = "" if len(groups) == len(made.layers) else " Each column is the worst of several neighbours."
    title = f"SQNR of each layer, {plain(made.environment)} rules"
    identity = f"layers-{number}"
    return Chart(
        identity,
        title,
        f"dB, int8 beside float on {made.layers_samples:,} calibration samples, everything before a layer included; "
        f"higher is closer. Lowest: {named}.{grouped} For {', '.join(plain(name) for name in targets)}.",
        svg.drawing(round(bottom + 22), title, f"{len(known)} layers; lowest: {named}", identity, parts),
        ("layer", "type", "SQNR, dB"),
        rows,
    )


def _grouped(layers: Sequence[LayerSqnr]) -> list[LayerSqnr | None]:
    """The worst of each group of neighbours, in at most so many groups as can be drawn; None for equal ones."""
    size = math.ceil(len(layers) / _MOST_COLUMNS)
    found: list[LayerSqnr | None] = []
    for start in range(0, len(layers), size):
        told = [layer for layer in layers[start : start + size] if layer.sqnr_db is not None]
        found.append(min(told, key=lambda layer: layer.sqnr_db or 0.0) if told else None)
    return found
