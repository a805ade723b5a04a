"""Verdict and headline table on a terminal: one line a target where there is room, else one line a network.

Where even that has no room (long names of boards, long intervals), each board has a heading and a line a figure: a
figure's title may be folded, the name of a board never.
"""

from __future__ import annotations

import re

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from harness.record.run import RunRecord
from harness.report.headline import Cell, Column, Row
from harness.report.table import Table, build_table
from harness.report.text import MISSING

#: No heading of the narrow table is broken into shorter lines.
_TITLE = 14
#: Columns to measure the wide table in: more than any terminal has.
_ENDLESS = 10_000
_OUTCOME_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
#: The networks' rows of the narrow table: cells of accuracy, of latency.
_ACCURACY = ("accuracy_float", "accuracy_quantized", "delta")
_LATENCY = ("latency_float", "latency_quantized", "speedup")


def render_terminal(record: RunRecord, console: Console) -> None:
    """Print verdict, table and notes. Texts from boards and users are printed as text, never as markup or controls."""
    table = build_table(record)
    console.print(Text(f"{table.job}: {table.outcome}", style="bold"))
    if table.gates:
        _print_gates(table, console)
    if table.rows:
        for grid in (_wide(table), _narrow(table)):
            if Measurement.get(console, console.options.update(max_width=_ENDLESS), grid).maximum <= console.width:
                console.print(grid)
                break
        else:
            _print_listed(table, console)
    for note in table.notes:
        console.print(Padding(Text(note.line, style="dim"), (0, 0, 0, 2)))


def render_gates(record: RunRecord, console: Console) -> None:
    """Print the verdict and its gates, worst first."""
    _print_gates(build_table(record), console)


def _print_gates(table: Table, console: Console) -> None:
    console.print(Text(f"verdict: {table.verdict.text}", style="bold"))
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    # a setting of a sweep has a long name: it stands above the words, not in a column beside them
    beside = all(cell_len(row.target) <= max(12, console.width // 3) for row in table.gates)
    if beside:
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in table.gates:
        said = "; ".join(text for text in (row.evidence, row.detail) if text != MISSING and text)
        words = Text.assemble(row.claim, *(("\n", (said, "dim")) if said else ()))
        outcome = Text(row.outcome, style=_OUTCOME_STYLE.get(row.outcome, ""))
        if beside:
            grid.add_row(outcome, Text(row.target), words)
        else:
            grid.add_row(outcome, Text.assemble(row.target, "\n", words))
    console.print(Padding(grid, (0, 0, 0, 2)))
    console.print()


def _wide(table: Table) -> Grid:
    grid = _grid()
    grid.add_column("target", overflow="fold")
    for column in table.columns:
        grid.add_column(Text(_heading(column)), justify="right", no_wrap=True)
    grid.add_column("source", no_wrap=True)
    for row in table.rows:
        cells = (_wide_cell(column, row.cells[column.key]) for column in table.columns)
        grid.add_row(_stack(row.target, row.board), *cells, _source(row))
    return grid


def _heading(column: Column) -> str:
    """Two or three short lines: the column is as wide as its numbers."""
    if not column.group:
        first, _, rest = column.title.partition(" ")
        return f"{first}\n{rest}"
    group = f"p50 {column.unit}".strip() if column.group.startswith("Latency") else column.group
    return f"{group.removesuffix(' accuracy')}\n{column.title.replace('-P', '-' + chr(10) + 'P')}"


def _wide_cell(column: Column, cell: Cell) -> Text:
    below = () if column.key == "agreement" else cell.below  # its interval is on the page; here it costs a column
    return _stack(cell.text, *below)


def _narrow(table: Table) -> Grid:
    keys = {column.key for column in table.columns}
    grid = _grid()
    grid.add_column("target", overflow="fold")
    grid.add_column("network", no_wrap=True)
    widest = max(cell_len(text) for row in table.rows for key in _ACCURACY for text in _lines(row.cells[key]))
    grid.add_column(Text(_broken(table.metric, max(widest, _TITLE))), justify="right", no_wrap=True)
    grid.add_column("p50 ms", justify="right", no_wrap=True)
    grid.add_column("memory", justify="right", no_wrap=True)
    for row in table.rows:
        known = [
            any(row.cells[key].interval or row.cells[key].mark for key in pair)
            for pair in zip(_ACCURACY, _LATENCY, strict=True)
        ]
        names = [
            f"{name}{f'{chr(10)} [95 %]' if more else ''}"
            for name, more in zip(("Floating-Point", "Quantized", "Ratio"), known, strict=True)
        ]
        memory = row.cells["memory"]
        grid.add_row(
            Text.assemble(row.target, "\n", (row.board, "dim"), "\n", _source(row)),
            Text("\n".join([*names, *(_extra_names(keys))])),
            _column([row.cells[key] for key in _ACCURACY], known),
            Text("\n").join([_column([row.cells[key] for key in _LATENCY], known), *_extra(row, keys)]),
            _stack(*_spread((memory.text, memory.more.removeprefix("→ "), memory.interval), known), dim_from=9),
        )
    return grid


def _print_listed(table: Table, console: Console) -> None:
    """Each board with a line a figure: Floating-Point, Quantized, what compares them."""
    listed = [(row, _figures(table, row)) for row in table.rows]
    names = ("Floating-Point", "Quantized", "compared")
    cells = [cell for _, figures in listed for _, of_figure in figures for cell in of_figure]
    # one width for all boards, so that their figures stand below each other
    width = max(cell_len(line) for line in (*names, *(line for cell in cells for line in cell)))
    console.print()
    for row, figures in listed:
        console.print(Text(row.target, style="bold"))
        console.print(Padding(Text(", ".join([row.board, *_source(row).plain.split("\n")]), style="dim"), (0, 0, 0, 2)))
        grid = Grid(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), collapse_padding=True)
        grid.add_column("", overflow="fold", width=max(8, console.width - 2 - 3 * (width + 2)))
        for name in names:
            grid.add_column(name, justify="right", overflow="fold", width=width)
        for title, of_figure in figures:
            grid.add_row(Text(title), *(_stack(*cell) for cell in of_figure))
        console.print(Padding(grid, (0, 0, 1, 2)))


def _figures(table: Table, row: Row) -> list[tuple[str, tuple[tuple[str, ...], ...]]]:
    """(title, lines of the three cells) of each figure of a board."""
    keys = {column.key: column for column in table.columns}
    cells = row.cells
    nothing: tuple[str, ...] = ("",)
    found = [(table.metric, tuple(_lines(cells[key]) for key in _ACCURACY))]
    found.append((keys["agreement"].title, (nothing, nothing, _lines(cells["agreement"]))))
    found.append(("p50 ms", tuple(_lines(cells[key]) for key in _LATENCY)))
    for key in ("throughput", "energy", "memory"):
        if key in keys:
            found.append((keys[key].title, _both(cells[key])))
    return found


def _both(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """The three cells of a figure that holds both networks in one."""
    before, _, after = cell.text.partition(" → ")
    after, more = (after, cell.more) if after else (cell.more.removeprefix("→ "), "")
    return (before,), (after or MISSING,), tuple(part for part in (cell.interval, more, cell.mark) if part) or ("",)


def _lines(cell: Cell) -> tuple[str, ...]:
    return (cell.text, *cell.below)


def _broken(title: str, width: int) -> str:
    """A heading in lines of at most `width`, broken after a space, a hyphen or an underscore where there is one."""
    lines = [""]
    for word in re.findall(r"[^ _-]*[ _-]?", title):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def _extra_names(keys: set[str]) -> list[str]:
    """Lines below the ratio: what only some runs have."""
    throughput = ["Samples/s", ""] if "throughput" in keys else []
    return throughput + (["Energy", ""] if "energy" in keys else [])


def _extra(row: Row, keys: set[str]) -> list[Text]:
    found: list[Text] = []
    if "throughput" in keys:
        cell = row.cells["throughput"]
        found.append(_stack(cell.text, cell.more or " ", dim_from=9))
    if "energy" in keys:
        cell = row.cells["energy"]
        found.append(_stack(cell.text, cell.interval or " "))
    return found


def _column(cells: list[Cell], known: list[bool]) -> Text:
    """The three cells below each other; a line for the interval where one of the row's columns has one."""
    lines = []
    for cell, more in zip(cells, known, strict=True):
        lines.append(Text(cell.text))
        if more:
            lines.append(Text(cell.interval or cell.mark, style="dim"))
    return Text("\n").join(lines)


def _spread(texts: tuple[str, ...], known: list[bool]) -> list[str]:
    """One text for each of the three rows, a blank line where intervals take one."""
    spread: list[str] = []
    for one, more in zip(texts, known, strict=True):
        spread += [one, *([""] if more else [])]
    return spread


def _grid() -> Grid:
    return Grid(box=SIMPLE_HEAD, pad_edge=False, show_lines=False, leading=1, header_style="bold")


def _stack(*lines: str, dim_from: int = 1) -> Text:
    """Lines of one cell; from the second on (or `dim_from`) in a quieter voice."""
    text = Text()
    for number, line in enumerate(lines):
        text.append(("\n" if number else "") + line, style="dim" if number >= dim_from else "")
    return text


def _source(row: Row) -> Text:
    text = Text(row.source)
    if row.time_source:
        text.append(f"\ntime {row.time_source}")
    if row.verdict:
        text.append(f"\n{row.verdict}", style=_OUTCOME_STYLE.get(row.verdict, ""))
    if row.caution:
        text.append(f"\n{row.caution}", style="yellow")
    if not row.done:
        text.append(f"\n{row.status}", style="bold red")
    return text
