"""One target's section of the page: its figures, and how its networks were made, shipped, loaded and programmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.judge.caveats import how_made
from harness.record.designs import DesignRecord, Programming
from harness.record.figure import Figure, Network
from harness.record.networks import Loading, Shipment
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report import text
from harness.report.headline import figure_index
from harness.report.notes import target_notes


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One metric of one target: the two networks beside each other, or a row that compares them."""

    metric: str
    cells: tuple[tuple[str, str], ...]  # (value, interval)
    n: str
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class TargetView:
    """One target's section."""

    number: int
    record: TargetRecord
    status: str
    notes: tuple[str, ...]
    networks: tuple[FigureRow, ...]
    ratios: tuple[FigureRow, ...]
    unknown: tuple[tuple[str, str], ...]  # (metrics, reason)
    how_made: tuple[str, ...]
    kept_float: tuple[tuple[str, tuple[str, ...]], ...]  # (reason, layers)
    loadings: tuple[tuple[str, ...], ...]
    shipments: tuple[tuple[str, ...], ...]
    programming: tuple[tuple[str, ...], ...]
    compiled: tuple[DesignRecord, ...]  # those with a compile log


def target_view(record: RunRecord, target: TargetRecord, number: int) -> TargetView:
    """The section of one target; `number` makes its ids unique."""
    own = [figure for figure in record.figures if figure.target == target.name]
    return TargetView(
        number=number,
        record=target,
        status=target.status if target.error is None else f"{target.status}: {target.error}",
        notes=tuple(note for note in target_notes(target, figure_index(own)) if not note.startswith(target.status)),
        networks=tuple(_network_rows(own)),
        ratios=tuple(
            FigureRow(f.metric, (_cell(f),), "" if f.n is None else f"{f.n:,}", f.source.value, f.note)
            for f in own
            if f.network is Network.RATIO and f.value is not None
        ),
        unknown=_unknown(own),
        how_made=how_made(target.quantized.notes) if target.quantized else (),
        kept_float=_by_reason(target),
        loadings=tuple(_loading_cells(item) for item in target.loadings),
        shipments=tuple(_shipment_cells(item) for item in target.shipments),
        programming=tuple(_programming_cells(item) for item in target.programming),
        compiled=tuple(design for design in target.designs if design.compile_log),
    )


def _network_rows(figures: Sequence[Figure]) -> Iterator[FigureRow]:
    both = {(f.network, f.metric): f for f in figures if f.network is not Network.RATIO and f.value is not None}
    for metric in dict.fromkeys(metric for _, metric in both):
        pair = [both.get((network, metric)) for network in (Network.FLOAT, Network.QUANTIZED)]
        known = [figure for figure in pair if figure is not None]
        counts = dict.fromkeys("" if figure.n is None else f"{figure.n:,}" for figure in known)
        notes = [figure.note for figure in known if figure.note]
        if len(known) == 2 and len(set(notes)) == 2:
            notes = [f"{figure.network.value}: {figure.note}" for figure in known]
        cells = tuple((text.MISSING, "") if figure is None else _cell(figure) for figure in pair)
        sources = " / ".join(dict.fromkeys(figure.source.value for figure in known))
        yield FigureRow(metric, cells, " / ".join(counts), sources, ". ".join(dict.fromkeys(notes)))


def _cell(figure: Figure) -> tuple[str, str]:
    return (
        text.value_text(figure.value, figure.unit, figure.metric),
        text.interval_text(figure.ci_low, figure.ci_high, figure.unit, figure.metric),
    )


def _unknown(figures: Sequence[Figure]) -> tuple[tuple[str, str], ...]:
    """Metrics without a value, gathered by reason."""
    by_reason: dict[str, list[str]] = {}
    for figure in figures:
        if figure.value is None:
            metrics = by_reason.setdefault(figure.note or "no reason given", [])
            if figure.metric not in metrics:
                metrics.append(figure.metric)
    return tuple((", ".join(metrics), reason) for reason, metrics in by_reason.items())


def _by_reason(target: TargetRecord) -> tuple[tuple[str, tuple[str, ...]], ...]:
    layers: dict[str, list[str]] = {}
    for layer, reason in target.quantized.kept_float if target.quantized else ():
        layers.setdefault(reason, []).append(layer)
    return tuple((reason, tuple(names)) for reason, names in layers.items())


def _loading_cells(item: Loading) -> tuple[str, ...]:
    def ms(value: float | None) -> str:
        return text.MISSING if value is None else text.significant(value)

    if item.warm_up_iterations is None:
        warm_up = text.MISSING
    else:
        steady = "" if item.steady is None else ", steady" if item.steady else ", not steady"
        seconds = "" if item.warm_up_s is None else f" in {text.significant(item.warm_up_s)} s"
        warm_up = f"{item.warm_up_iterations:,} iterations{seconds}{steady}"
    return (
        item.network.value,
        "already loaded, skipped" if item.already_loaded else "loaded",
        ms(item.start_ms),
        ms(item.check_ms),
        ms(item.load_ms),
        ms(item.compile_ms),
        ms(item.first_ms),
        warm_up,
        f"{item.runtime} {item.runtime_version} {_providers(item)}".strip(),
    )


def _providers(item: Loading) -> str:
    """Each provider with the number of its nodes, where the board could tell."""
    if not item.assigned:
        return ", ".join(item.providers)
    return ", ".join(f"{share.provider} ({share.count:,} nodes)" for share in item.assigned)


def _shipment_cells(item: Shipment) -> tuple[str, ...]:
    how = "already on the board, skipped" if item.skipped else f"{item.sent_bytes:,} bytes sent"
    return item.network.value, f"{item.size_bytes:,} bytes", how, item.digest


def _programming_cells(item: Programming) -> tuple[str, ...]:
    def how(skipped: bool) -> str:
        return "already loaded, skipped" if skipped else "programmed"

    return (
        item.network.value,
        item.design,
        how(item.design_skipped),
        how(item.network_skipped),
        item.network_digest,
        item.boot_id or text.MISSING,
        item.device,
    )
