"""comparison.md: verdict, headline table and notes for a merge request or a wiki."""

from __future__ import annotations

import re

from harness.record.run import RunRecord
from harness.report.headline import Row
from harness.report.table import Table, build_table
from harness.report.text import plain

#: Characters that mean something to Markdown inside a line or a table cell.
_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
#: What would start a list, a heading or a rule at the beginning of a list item.
_LEADING = re.compile(r"^(\s*\d*)([-+#=.)])")


def escape(text: str) -> str:
    """`text` as Markdown that shows exactly it: no markup, no HTML, no extra table cell, no automatic link."""
    html = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A zero-width joiner would hide in what is copied; an entity for the colon breaks a bare address just as well.
    return _LEADING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", html)).replace("://", "&#58;//")


def comparison_md(record: RunRecord) -> str:
    """The file's content."""
    table = build_table(record)
    lines = [f"# {escape(table.job)}: Floating-Point and Quantized side by side", ""]
    if table.gates:
        lines += [f"**Verdict: {escape(table.verdict.text)}**", ""]
    lines += [
        f"{escape(table.outcome)} {table.samples:,} samples, {table.calibration_samples:,} calibration samples, "
        f"profile {escape(table.profile)}, {escape(table.started)}, {table.elapsed}, run {escape(table.run_id)}.",
        "",
    ]
    if table.gates:
        lines += [*_gates(table), ""]
    lines += _comparison(table)
    lines += ["", *(f"- {escape(note.line)}" for note in table.notes), ""]
    return "\n".join(lines)


def _comparison(table: Table) -> list[str]:
    verdict = ["verdict"] if table.gates else []
    headers = ["target", "board", "environment", *verdict, *(column.full for column in table.columns)]
    rules = ["---"] * (3 + len(verdict)) + ["---:"] * len(table.columns) + ["---"] * 2
    lines = [_line([escape(header) for header in (*headers, "source", "status")]), _line(rules)]
    lines += [_line([escape(cell) for cell in _cells(table, row)]) for row in table.rows]
    return [*lines, "", r"Brackets: 95 % interval. Difference: Quantized minus Floating-Point."]


def _cells(table: Table, row: Row) -> list[str]:
    verdict = [row.verdict] if table.gates else []
    numbers = [row.cells[column.key].line for column in table.columns]
    return [row.target, row.board, row.environment, *verdict, *numbers, row.full_source, row.ended]


def _gates(table: Table) -> list[str]:
    headers = ["outcome", "target", "gate", "figure", "95 %", "n", "source", "what would settle it"]
    lines = [_line([escape(header) for header in headers]), _line(["---"] * 3 + ["---:"] * 3 + ["---"] * 2)]
    for row in table.gates:
        cells = [row.outcome, row.target, row.claim, row.figure, row.interval, row.n, row.source, row.detail]
        lines.append(_line([escape(cell) for cell in cells]))
    return lines


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
