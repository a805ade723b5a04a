"""report.html: the whole run on one page. One file, no script, nothing asked of another host."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harness._version import __version__
from harness.judge.caveats import how_made
from harness.judge.figure import Figure, Network, Source
from harness.record import DesignRecord, Loading, Programming, RecoveryStep, RunRecord, Shipment, TargetRecord
from harness.report import text
from harness.report.charts import Chart, accuracy_chart, latency_chart
from harness.report.headline import figure_index as index_of
from harness.report.notes import target_notes
from harness.report.table import build_table

#: Only these leave blocks worth a plot (a refused block may hold anything).
_STATUS_WITH_PLOT = ("done", "throttled")


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
    mended: tuple[tuple[str, ...], ...]  # what was done when the board was lost
    compiled: tuple[DesignRecord, ...]  # those with a compile log
    chart: Chart | None
    facts: tuple[tuple[str, str], ...]


def report_html(record: RunRecord) -> str:
    """The page's content. It depends on nothing but the record (and the version of quantrig that wrote it)."""
    views = [_target_view(record, target, number) for number, target in enumerate(record.targets, start=1)]
    return template("report.html.j2").render(
        record=record,
        table=build_table(record),
        emulated=[target.name for target in record.targets if target.source is Source.EMULATED],
        modelled=_modelled(record),
        accuracy=accuracy_chart(record),
        targets=views,
        host_facts=tuple(flatten(record.host)),
        job_json=json.dumps(record.job, indent=2, ensure_ascii=False, default=str).splitlines(),
        version=__version__,
        missing=text.MISSING,
    )


def _modelled(record: RunRecord) -> list[str]:
    """Targets of which some time is a model's."""
    names = (figure.target for figure in record.figures if figure.source is Source.MODELLED and figure.metric == "fps")
    return list(dict.fromkeys(names))


def template(name: str) -> Template:
    """A template of this room; whatever it prints is escaped and made printable."""
    return _environment().get_template(name)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: object) -> object:
    """Every text that a template prints goes through `plain`; our own markup (the drawings) is already safe."""
    return text.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _target_view(record: RunRecord, target: TargetRecord, number: int) -> TargetView:
    own = [figure for figure in record.figures if figure.target == target.name]
    plotted = target.source is Source.MEASURED and target.status in _STATUS_WITH_PLOT
    return TargetView(
        number=number,
        record=target,
        status=target.status if target.error is None else f"{target.status}: {target.error}",
        notes=tuple(note for note in target_notes(target, index_of(own)) if not note.startswith(target.status)),
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
        mended=tuple(_recovery_cells(step) for step in target.recovery),
        compiled=tuple(design for design in target.designs if design.compile_log),
        chart=latency_chart(target, number) if plotted else None,
        facts=(*flatten(target.description or {}), *_settings(target)),
    )


def _settings(target: TargetRecord) -> Iterator[tuple[str, str]]:
    """What was set on the board while it was timed, beside what it says of itself."""
    for one in target.settings:
        after = one.after if one.after is not None else text.MISSING
        states = f"asked {one.asked}, before {one.before or text.MISSING}, timed at {one.during or text.MISSING}"
        yield f"settings.{one.name}", f"{states}, after {after or text.MISSING}{one.problem and f': {one.problem}'}"


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


def _recovery_cells(step: RecoveryStep) -> tuple[str, ...]:
    began = dt.datetime.fromtimestamp(step.began_unix_s, dt.UTC).strftime("%H:%M:%S")
    seconds = f"{step.seconds:.1f} s" if step.outcome != "skipped" else text.MISSING
    return step.name, began, seconds, step.outcome, step.detail


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain JSON as (dotted name, text); an unknown value is a dash, an empty list or text is left out."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, start=1):
                yield from flatten(item if isinstance(item, Mapping) else {"value": item}, f"{name}.{number}.")
        elif isinstance(value, list | tuple):
            if value:
                yield name, ", ".join(str(item) for item in value)
        elif value is None:
            yield name, text.MISSING
        elif value != "":
            yield name, ("yes" if value else "no") if isinstance(value, bool) else str(value)
