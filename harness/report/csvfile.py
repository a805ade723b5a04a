"""comparison.csv: tidy, one figure a row; the columns are a contract with scripts."""

from __future__ import annotations

import csv
import io

from harness.record.figure import Figure
from harness.record.run import RunRecord
from harness.report.table import Table, build_table
from harness.report.text import plain

COLUMNS = (
    "run_id",
    "job",
    "target",
    "board",
    "environment",
    "network",
    "device",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "unit",
    "source",
    "n",
    "note",
)

#: What a spreadsheet takes for the start of a formula (OWASP, "CSV Injection"), full-width forms included.
_FORMULA_START = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001 - the look-alikes are the point


def comparison_csv(record: RunRecord) -> str:
    """The file's content. Unknown values are empty; numbers are written so that they read back exactly."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    table = build_table(record)
    for figure in table.figures:
        writer.writerow(_row(table, figure))
    return buffer.getvalue()


def _row(table: Table, figure: Figure) -> list[str]:
    return [
        text_cell(table.run_id),
        text_cell(table.job),
        text_cell(figure.target),
        text_cell(figure.board),
        text_cell(figure.environment),
        figure.network.value,
        text_cell(figure.device),
        text_cell(figure.metric),
        number_cell(figure.value),
        number_cell(figure.ci_low),
        number_cell(figure.ci_high),
        text_cell(figure.unit),
        figure.source.value,
        "" if figure.n is None else str(figure.n),
        text_cell(figure.note),
    ]


def text_cell(text: str) -> str:
    """One line; with a leading apostrophe where a spreadsheet would otherwise run it as a formula."""
    shown = plain(text)
    risky = text.startswith(_FORMULA_START) or shown.lstrip().startswith(_FORMULA_START)
    return f"'{shown}" if risky else shown


def number_cell(value: float | None) -> str:
    """The shortest text that reads back as the same number; whole numbers without a fraction; empty for None."""
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
