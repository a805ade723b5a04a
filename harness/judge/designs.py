"""An emulated FPGA's rows: what models and tables say of its designs, in the place of what nobody measured."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.context import TargetContext
from harness.record.designs import DesignRecord
from harness.record.figure import Figure, Network, Source

_BOTH = (Network.FLOAT, Network.QUANTIZED)


def with_designs(context: TargetContext, figures: Sequence[Figure], designs: Sequence[DesignRecord]) -> list[Figure]:
    """The rows of an emulated target, with what models and tables say of its designs in the place of empty ones.

    Each such row carries a source and a device of its own. The speed-up is that of the two modelled rates.
    """
    known = {(design.network, row.metric): (design, row) for design in designs for row in design.rows}
    placed: list[Figure] = []
    for figure in figures:
        design, row = known.get((figure.network, figure.metric), (None, None))
        if row is not None and design is not None:
            source = row.source if row.value is not None else None
            device = design.design if row.value is not None else None
            placed.append(
                context.figure(
                    figure.network, row.metric, row.value, row.unit,
                    notes=(row.note,), source=source, device=device,
                )
            )  # fmt: skip
        else:
            placed.append(figure)
    return [_modelled_speedup(context, placed, figure) for figure in placed]


def _modelled_speedup(context: TargetContext, figures: Sequence[Figure], figure: Figure) -> Figure:
    if figure.metric != "speedup":
        return figure
    rates = {f.network: f for f in figures if f.metric == "fps" and f.value}
    if set(rates) != set(_BOTH):
        missing = next((f.note for f in figures if f.metric == "fps" and not f.value and f.note), figure.note)
        return context.figure(Network.RATIO, "speedup", None, "x", notes=(missing,))
    first, second = rates[Network.FLOAT], rates[Network.QUANTIZED]
    return context.figure(
        Network.RATIO,
        "speedup",
        (second.value or 0) / (first.value or 1),
        "x",
        notes=("of two modelled rates, each with the error of its model",),
        source=Source.MODELLED,
        device=f"{first.device} / {second.device}",
    )
