"""The headline table on a terminal: one line a target where there is room, one line a network where there is not."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge.verdict import run_verdict
from harness.record import RunRecord
from harness.report.gates import gate_rows
from harness.report.table import DisplayRow, comparison_rows, headline_metric, metric_title, notes_under_table, outcome
from harness.report.text import MISSING, plain

#: Columns to measure the wide table in: more than any terminal has.
_ENDLESS = 10_000
_OUTCOME_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def render_terminal(record: RunRecord, console: Console) -> None:
    """Print the table and its notes. Texts from boards and users are printed as text, never as markup or controls."""
    title = metric_title(headline_metric(record))
    rows = comparison_rows(record)
    console.print(Text(f"{plain(record.job_name)}: {outcome(record)}", style="bold"))
    wide = _wide(rows, title)
    fits = Measurement.get(console, console.options.update(max_width=_ENDLESS), wide).maximum <= console.width
    console.print(wide if fits else _narrow(rows, title))
    if record.gates:
        render_gates(record, console)
    for note in notes_under_table(record):
        console.print(Padding(Text(note.line, style="dim"), (0, 0, 0, 2)))


def render_gates(record: RunRecord, console: Console) -> None:
    """Print the verdict and its gates, worst first."""
    rows = gate_rows(record.gates)
    console.print(Text(f"verdict: {run_verdict(record).text}", style="bold"))
    wide = max((len(row.target) for row in rows), default=0)
    for row in rows:
        line = Text("  ").append(f"{row.outcome:<12}", style=_OUTCOME_STYLE.get(row.outcome, ""))
        console.print(line.append(f"  {row.target:<{wide}}  {row.claim}"))
        said = "; ".join(text for text in (row.evidence, row.detail) if text != MISSING and text)
        if said:
            console.print(Padding(Text(said, style="dim"), (0, 0, 0, 18 + wide)))
    console.print()


def _wide(rows: list[DisplayRow], title: str) -> Table:
    table = _table()
    short = title.removesuffix(" accuracy")
    table.add_column("target", overflow="fold")
    for heading in (
        f"{short}\nFloating-\nPoint",
        f"{short}\nQuantized",
        "difference\n[95 %]",
        "top-1\nagreement",
        "p50 ms\nFloating-\nPoint",
        "p50 ms\nQuantized",
        "speed-up\n[95 %]",
        "memory",
    ):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for row in rows:
        table.add_row(
            _stack(row.target, row.board),
            Text(row.accuracy_float),
            Text(row.accuracy_quantized),
            _stack(row.delta, row.delta_interval),
            Text(row.agreement),
            _stack(row.latency_float, row.latency_float_source),
            _stack(row.latency_quantized, row.latency_quantized_source),
            _stack(row.speedup, row.speedup_interval or row.speedup_source),
            _stack(row.memory_float, f"→ {row.memory_quantized}" if row.memory_quantized != MISSING else ""),
            _source(row),
        )
    return table


def _narrow(rows: list[DisplayRow], title: str) -> Table:
    table = _table()
    table.add_column("target", overflow="fold")
    table.add_column("network", no_wrap=True)
    table.add_column(Text(title), justify="right", no_wrap=True)
    table.add_column("p50 ms", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text.assemble(row.target, "\n", (row.board, "dim"), "\n", _source(row)),
            Text("Floating-Point\nQuantized\nRatio\n[95 %]"),
            _stack(row.accuracy_float, row.accuracy_quantized, row.delta, row.delta_interval, dim_from=3),
            _stack(
                row.latency_float,
                row.latency_quantized,
                row.speedup,
                row.speedup_interval or row.time_source,
                dim_from=3,
            ),
            _stack(row.memory_float, row.memory_quantized, row.memory_ratio),
        )
    return table


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=False, leading=1, header_style="bold")


def _stack(*lines: str, dim_from: int = 1) -> Text:
    """Lines of one cell; from the second on (or `dim_from`) in a quieter voice; empty ones at the end are left out."""
    text = Text()
    while len(lines) > dim_from and not lines[-1]:
        lines = lines[:-1]
    for number, line in enumerate(lines):
        text.append(("\n" if number else "") + line, style="dim" if number >= dim_from else "")
    return text


def _source(row: DisplayRow) -> Text:
    text = Text(row.source)
    if row.time_source:
        text.append(f"\ntime {row.time_source}")
    if not row.done:
        text.append(f"\n{row.status}", style="bold red")
    return text
