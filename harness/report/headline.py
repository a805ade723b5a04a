"""The headline table's columns and rows: one row a target, Floating-Point, Quantized and what compares them.

Terminal, comparison.md and pages print these cells; none of them formats a number of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.judge.timing import not_warm
from harness.judge.verdict import run_verdict
from harness.record.figure import Figure, Network, Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report.text import MISSING, interval_text, plain, significant, size, value_text

FigureIndex = Mapping[tuple[str, Network, str], Figure]

#: How far the int8 outputs are from the float ones: the headline where there are no labels.
SQNR = "sqnr_db"

_FLOAT, _QUANTIZED, _RATIO = Network.FLOAT, Network.QUANTIZED, Network.RATIO


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell, ready to print.

    Args:
        text: the value; a dash where nothing is known.
        interval: the 95 % interval, or ""; of a cell that holds both networks what compares them, with its interval.
        more: what stands beside the value in a quieter voice, or "".
        mark: how the value came to be where that is not the target's own source, else "".
    """

    text: str
    interval: str = ""
    more: str = ""
    mark: str = ""

    @property
    def line(self) -> str:
        """All on one line: "1.75x [1.74, 1.76] (modelled)"."""
        marked = f"({self.mark})" if self.mark else ""
        return " ".join(part for part in (self.text, self.more, self.interval, marked) if part)

    @property
    def below(self) -> tuple[str, ...]:
        """What stands under the value, a line each."""
        return tuple(part for part in (self.more, self.interval, self.mark) if part)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers.

    Args:
        key: of the cell in `Row.cells`.
        group: heading of the columns that belong together; "" for one that stands alone.
        title: its own heading.
        unit: of its numbers where they do not say it themselves.
    """

    key: str
    group: str
    title: str
    unit: str = ""

    @property
    def full(self) -> str:
        """Group, title and unit, for a table with one line of headings."""
        return ", ".join(part for part in (self.group, self.title, self.unit) if part)


@dataclass(frozen=True, slots=True)
class Row:
    """One target.

    Args:
        target: its name.
        entry: of one setting of a sweep, the board's entry in the lab file; "" for any other target.
        setting: of a sweep: "batch 4, 2 threads"; else "".
        verdict: worst of its gates; "" where none holds on it.
        cells: by the key of their column.
        source: of the target.
        status: "done" or what ended it.
        caution: "not-warm" where the board's times were taken before it was steady; else "".
    """

    target: str
    board: str
    environment: str
    entry: str
    setting: str
    verdict: str
    cells: Mapping[str, Cell]
    source: str
    status: str
    caution: str

    @property
    def ended(self) -> str:
        """The status, with what a reader of the row must know at once: "done, not-warm"."""
        return f"{self.status}, {self.caution}" if self.caution else self.status

    @property
    def done(self) -> bool:
        """Whether the target went to its end."""
        return self.status == "done"

    @property
    def time_source(self) -> str:
        """How the row's times came to be where that is not the target's own source, else ""."""
        times = ("latency_float", "latency_quantized", "speedup")
        return ", ".join(dict.fromkeys(mark for key in times if (mark := self.cells[key].mark)))

    @property
    def full_source(self) -> str:
        """All sources of the row: "emulated, time modelled"."""
        return f"{self.source}, time {self.time_source}" if self.time_source else self.source


def figure_index(figures: Iterable[Figure]) -> dict[tuple[str, Network, str], Figure]:
    """Figures by (target, network, metric)."""
    return {(figure.target, figure.network, figure.metric): figure for figure in figures}


def headline_metric(record: RunRecord) -> str:
    """The metric of the headline table: the first of the job's that the figures compare; "accuracy_top1" by default.

    A job without metrics (data without labels) has the SQNR of the int8 outputs instead.
    """
    for figure in record.figures:
        if figure.network is _RATIO and figure.metric.endswith("_delta"):
            return figure.metric.removesuffix("_delta")
    return "accuracy_top1" if record.job.get("metrics") != [] else SQNR


def metric_title(metric: str) -> str:
    """How a reader calls a metric: accuracy_top1 is the "top-1 accuracy"; another one keeps its name."""
    if metric == SQNR:
        return "output SQNR"
    rank = metric.removeprefix("accuracy_top")
    return f"top-{rank} accuracy" if rank.isdigit() and rank != metric else plain(metric)


def columns(record: RunRecord) -> tuple[Column, ...]:
    """The columns of numbers. Throughput is there in a sweep, energy where a target knows it."""
    title = metric_title(headline_metric(record))
    found = [
        Column("accuracy_float", title, _FLOAT.value),
        Column("accuracy_quantized", title, _QUANTIZED.value),
        Column("delta", title, "Difference"),
        Column("agreement", "", "Top-1 agreement"),
        Column("latency_float", "Latency p50", _FLOAT.value, "ms"),
        Column("latency_quantized", "Latency p50", _QUANTIZED.value, "ms"),
        Column("speedup", "Latency p50", "Speed-up"),
    ]
    if any(target.entry for target in record.targets):
        found.append(Column("throughput", "", "Samples a second"))
    if any(_energy_metric(figure.metric) and figure.value is not None for figure in record.figures):
        found.append(Column("energy", "", "Energy a sample"))
    return (*found, Column("memory", "", "Learnable memory"))


def rows(record: RunRecord) -> tuple[Row, ...]:
    """One row for each target, in the lab's order."""
    index = figure_index(record.figures)
    metric = headline_metric(record)
    verdicts = {name: outcome for name, outcome in run_verdict(record).targets if outcome is not None}
    return tuple(_row(target, index, metric, verdicts.get(target.name, "")) for target in record.targets)


def _row(target: TargetRecord, index: FigureIndex, metric: str, verdict: str) -> Row:
    setting = target.name.removeprefix(target.entry).strip(" []") if target.entry else ""
    compared = metric if metric == SQNR else f"{metric}_delta"
    found = _Finder(target, index)
    return Row(
        target=plain(target.name),
        board=plain(target.board),
        environment=plain(target.environment),
        entry=plain(target.entry),
        setting=plain(setting),
        verdict=plain(verdict),
        cells={
            "accuracy_float": found.cell(_FLOAT, metric),
            "accuracy_quantized": found.cell(_QUANTIZED, metric),
            "delta": found.cell(_RATIO, compared),
            "agreement": found.cell(_RATIO, "top1_agreement"),
            "latency_float": found.cell(_FLOAT, "latency_p50_ms", unit=False),
            "latency_quantized": found.cell(_QUANTIZED, "latency_p50_ms", unit=False),
            "speedup": found.cell(_RATIO, "speedup"),
            "throughput": found.both("fps"),
            "energy": found.energy(),
            "memory": found.memory(),
        },
        source=target.source.value,
        status=plain(target.status),
        caution="not-warm" if _cold(target) else "",
    )


def _cold(target: TargetRecord) -> bool:
    """Whether times of it were published that were taken before it was steady."""
    timed = target.source is Source.MEASURED and bool(target.blocks)
    return timed and bool(not_warm(target.loadings, _FLOAT, _QUANTIZED))


@dataclass(frozen=True, slots=True)
class _Finder:
    """Makes the cells of one target."""

    target: TargetRecord
    index: FigureIndex

    def figure(self, network: Network, metric: str) -> Figure | None:
        """The figure, None where there is none or its value is not known."""
        found = self.index.get((self.target.name, network, metric))
        return found if found is not None and found.value is not None else None

    def cell(self, network: Network, metric: str, *, unit: bool = True) -> Cell:
        """One figure with its interval."""
        found = self.figure(network, metric)
        if found is None or found.value is None:
            return Cell(MISSING)
        shown = value_text(found.value, found.unit, metric) if unit else significant(found.value)
        interval = interval_text(found.ci_low, found.ci_high, found.unit, metric)
        return Cell(plain(shown), plain(interval), mark=self._mark(found))

    def both(self, metric: str) -> Cell:
        """Both networks in one cell, the int8 one below."""
        pair = [self.figure(network, metric) for network in (_FLOAT, _QUANTIZED)]
        shown = [MISSING if one is None or one.value is None else significant(one.value) for one in pair]
        known = [one for one in pair if one is not None]
        if not known:
            return Cell(MISSING)
        return Cell(shown[0], more=f"→ {shown[1]}", mark=self._mark(known[-1]))

    def energy(self) -> Cell:
        """Energy of a sample above idle where both networks have it, else gross; the ratio with its interval below."""
        for kind in ("energy_net", "energy"):
            before, after = self.figure(_FLOAT, f"{kind}_mj"), self.figure(_QUANTIZED, f"{kind}_mj")
            if before is None or after is None or before.value is None or after.value is None:
                continue
            ratio = self.cell(_RATIO, f"{kind}_ratio")
            shown = f"{significant(before.value)} → {significant(after.value)} mJ"
            above = "above idle" if kind == "energy_net" else "gross"
            known = f"{ratio.text} {ratio.interval}".strip() if ratio.text != MISSING else ""
            return Cell(shown, known, above, self._mark(after))
        return Cell(MISSING)

    def memory(self) -> Cell:
        """Weights and biases of both networks, and their ratio."""
        pair = [self.figure(network, "learnable_memory_bytes") for network in (_FLOAT, _QUANTIZED)]
        before, after = (MISSING if one is None or one.value is None else size(one.value) for one in pair)
        ratio = self.cell(_RATIO, "learnable_memory_ratio").text
        more = f"→ {after}" if after != MISSING else ""
        return Cell(before, "" if ratio == MISSING else ratio, more)

    def _mark(self, figure: Figure) -> str:
        return "" if figure.source is self.target.source else figure.source.value


def _energy_metric(metric: str) -> bool:
    return metric in ("energy_mj", "energy_net_mj")
