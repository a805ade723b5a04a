"""The headline table: one row a target, the two networks side by side. The terminal, the page and Markdown share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.judge.caveats import target_caveats
from harness.judge.figure import Figure, Network, Source
from harness.record import RunRecord, TargetRecord
from harness.report.text import MISSING, interval_text, plain, significant, size, value_text

FigureIndex = Mapping[tuple[str, Network, str], Figure]

#: What each kind of source means, for the line under a table that uses it.
SOURCE_MEANING = {
    Source.MEASURED: "measured: on that device.",
    Source.EMULATED: (
        "emulated: no board was there. Its arithmetic was run by a stand-in: accuracy and agreement only, never time."
    ),
    Source.MODELLED: "modelled: computed by a performance model whose error stands beside it; no board was timed.",
    Source.PUBLISHED: "published: quoted, with its source (resources of an FPGA).",
}

MEMORY_NOTE = (
    "Memory is that of weights and biases, counted from their dtypes. An emulated network is not smaller: its file may "
    "hold the same int8 values in wider types."
)


#: Said of an artifact that was not sent because the board held it.
SKIPPED = "already on the board, skipped"
#: The same of a design and a network that the board's logic held.
LOADED = "already loaded into the logic, programming skipped"


#: How far the int8 outputs are from the float ones: the headline where there are no labels.
SQNR = "sqnr_db"


@dataclass(frozen=True, slots=True)
class DisplayRow:
    """One target, every cell ready to print; a dash where nothing is known.

    Args:
        accuracy_float: of the headline metric; the same for `accuracy_quantized`.
        delta: Quantized - Floating-Point, in points for a fraction.
        delta_interval: its 95 % interval, or "".
        speedup: how many times faster Quantized is.
        latency_float_source: "" where it is the target's own, else how that number came to be; the same for
            `latency_quantized_source` and `speedup_source`.
        memory_float: learnable memory; the same for `memory_quantized`.
        status: "done" or what ended it.
        notes: one line each.
    """

    target: str
    board: str
    environment: str
    accuracy_float: str
    accuracy_quantized: str
    delta: str
    delta_interval: str
    agreement: str
    latency_float: str
    latency_quantized: str
    speedup: str
    speedup_interval: str
    latency_float_source: str
    latency_quantized_source: str
    speedup_source: str
    memory_float: str
    memory_quantized: str
    memory_ratio: str
    source: str
    status: str
    notes: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether the target went to its end."""
        return self.status == "done"

    @property
    def time_source(self) -> str:
        """How the row's times came to be where that is not the target's own source, else ""."""
        found = dict.fromkeys((self.latency_float_source, self.latency_quantized_source, self.speedup_source))
        return ", ".join(source for source in found if source)

    @property
    def full_source(self) -> str:
        """All sources of the row: "emulated, time modelled"."""
        return f"{self.source}, time {self.time_source}" if self.time_source else self.source

    @property
    def source_and_status(self) -> str:
        """All sources; with the status where that is not "done"."""
        return self.full_source if self.done else f"{self.full_source}, {self.status}"


@dataclass(frozen=True, slots=True)
class Note:
    """A note and whom it concerns; no target means all."""

    text: str
    targets: tuple[str, ...]

    @property
    def line(self) -> str:
        """The targets, then the text: `a, b: text`."""
        return f"{', '.join(self.targets)}: {self.text}" if self.targets else self.text


def figure_index(figures: Iterable[Figure]) -> dict[tuple[str, Network, str], Figure]:
    """Figures by (target, network, metric)."""
    return {(figure.target, figure.network, figure.metric): figure for figure in figures}


def headline_metric(record: RunRecord) -> str:
    """The metric of the headline table: the first of the job's that the figures compare; "accuracy_top1" by default.

    A job without metrics (data without labels) has the SQNR of the int8 outputs instead.
    """
    for figure in record.figures:
        if figure.network is Network.RATIO and figure.metric.endswith("_delta"):
            return figure.metric.removesuffix("_delta")
    return "accuracy_top1" if record.job.get("metrics") != [] else SQNR


def metric_title(metric: str) -> str:
    """How a reader calls a metric: accuracy_top1 is the "top-1 accuracy"; another one keeps its name."""
    if metric == SQNR:
        return "output SQNR"
    rank = metric.removeprefix("accuracy_top")
    return f"top-{rank} accuracy" if rank.isdigit() and rank != metric else plain(metric)


def comparison_rows(record: RunRecord) -> list[DisplayRow]:
    """The headline table, one row for each target in the lab's order."""
    index = figure_index(record.figures)
    metric = headline_metric(record)
    return [_row(target, index, metric) for target in record.targets]


def _row(target: TargetRecord, index: FigureIndex, metric: str) -> DisplayRow:
    compared = metric if metric == SQNR else f"{metric}_delta"

    def find(network: Network, name: str) -> Figure | None:
        return index.get((target.name, network, name))

    def shown(network: Network, name: str) -> str:
        figure = find(network, name)
        return plain(value_text(figure.value, figure.unit, name)) if figure else MISSING

    def interval(name: str) -> str:
        figure = find(Network.RATIO, name)
        return interval_text(figure.ci_low, figure.ci_high, figure.unit, name) if figure else ""

    def sized(network: Network) -> str:
        figure = find(network, "learnable_memory_bytes")
        return size(figure.value) if figure and figure.value is not None else MISSING

    def latency(network: Network) -> str:
        figure = find(network, "latency_p50_ms")
        return significant(figure.value) if figure and figure.value is not None else MISSING

    def other_source(network: Network, name: str) -> str:
        figure = find(network, name)
        own = figure is None or figure.value is None or figure.source is target.source
        return "" if own or figure is None else figure.source.value

    return DisplayRow(
        target=plain(target.name),
        board=plain(target.board),
        environment=plain(target.environment),
        accuracy_float=shown(Network.FLOAT, metric),
        accuracy_quantized=shown(Network.QUANTIZED, metric),
        delta=shown(Network.RATIO, compared),
        delta_interval=interval(compared),
        agreement=shown(Network.RATIO, "top1_agreement"),
        latency_float=latency(Network.FLOAT),
        latency_quantized=latency(Network.QUANTIZED),
        speedup=shown(Network.RATIO, "speedup"),
        speedup_interval=interval("speedup"),
        latency_float_source=other_source(Network.FLOAT, "latency_p50_ms"),
        latency_quantized_source=other_source(Network.QUANTIZED, "latency_p50_ms"),
        speedup_source=other_source(Network.RATIO, "speedup"),
        memory_float=sized(Network.FLOAT),
        memory_quantized=sized(Network.QUANTIZED),
        memory_ratio=shown(Network.RATIO, "learnable_memory_ratio"),
        source=target.source.value,
        status=plain(target.status),
        notes=target_notes(target, index),
    )


def target_notes(target: TargetRecord, index: FigureIndex) -> tuple[str, ...]:
    """What a reader must know about one target: how it ended, its own notes, a speed-up that did not settle."""
    notes: list[str] = []
    if target.status != "done":
        notes.append(f"{target.status}: {target.error}" if target.error else target.status)
    notes += [*target.notes, *target_caveats(target)]
    notes += _design_notes(target)
    speedup = index.get((target.name, Network.RATIO, "speedup"))
    if speedup is not None and speedup.value is not None:
        notes += [
            f"speed-up {part}" for part in speedup.note.split("; ") if part.startswith(("inconclusive", "one pair"))
        ]
    skipped = [shipment.network.value for shipment in target.shipments if shipment.skipped]
    if skipped:
        notes.append(f"{' and '.join(dict.fromkeys(skipped))} {SKIPPED}")
    loaded = [item.network.value for item in target.programming if item.network_skipped]
    if loaded:
        notes.append(f"{' and '.join(dict.fromkeys(loaded))} {LOADED}")
    return tuple(dict.fromkeys(plain(note) for note in notes))


def _design_notes(target: TargetRecord) -> list[str]:
    """How far the model of each design is from published figures; one note where one says what the other says."""
    notes = list(dict.fromkeys(design.note for design in target.designs if design.note))
    whole = [note for note in notes if not any(other != note and other.startswith(note) for other in notes)]
    said: list[str] = []
    for note in whole:
        names = [design.design for design in target.designs if design.note and note.startswith(design.note)]
        said.append(f"modelled times of {', '.join(names)}: {note}")
    return said


def notes_under_table(record: RunRecord) -> list[Note]:
    """Every note once, with the targets it concerns: failures first, shipments last; then what the sources mean."""
    targets_of: dict[str, list[str]] = {}
    rows = comparison_rows(record)
    for row in rows:
        for note in row.notes:
            targets_of.setdefault(note, []).append(row.target)
    failed = {row.notes[0] for row in rows if not row.done and row.notes}
    ordered = sorted(targets_of, key=lambda text: (text not in failed, text.endswith((SKIPPED, LOADED))))
    everyone = len(record.targets) if len(record.targets) > 1 else None
    notes = [
        Note(text, ("all targets",) if len(targets_of[text]) == everyone else tuple(targets_of[text]))
        for text in ordered
    ]
    notes += [Note(plain(text), ()) for text in record.notes]
    used = {target.source for target in record.targets}
    used |= {figure.source for figure in record.figures if figure.value is not None}
    notes += [Note(SOURCE_MEANING[source], ()) for source in Source if source in used]
    notes.append(Note(MEMORY_NOTE, ()))
    return notes


def outcome(record: RunRecord) -> str:
    """How the run went, in one sentence."""
    total = len(record.targets)
    failed = [target for target in record.targets if target.status not in ("done", "pending")]
    pending = [target for target in record.targets if target.status == "pending"]
    if not failed and not pending:
        return f"All {total} targets finished." if total != 1 else "The target finished."
    parts = [f"{total - len(failed) - len(pending)} of {total} targets finished"]
    parts += [f"{plain(target.name)} {plain(target.status)}" for target in failed]
    if pending:
        parts.append(f"not reached: {', '.join(plain(target.name) for target in pending)}")
    return "; ".join(parts) + "."
