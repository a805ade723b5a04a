"""One value for everybody who prints a run: terminal, comparison.md, comparison.csv and the pages.

table = build_table(record)
table.verdict, table.gates        # what came of the gates, worst first
table.rows                        # float | int8 | ratio, a row a target
table.figures                     # every figure, a row of comparison.csv each
table.notes                       # what a reader must know beside them
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from harness.judge.verdict import Verdict, run_verdict
from harness.record.figure import Figure
from harness.record.run import RunRecord
from harness.report import text
from harness.report.gates import GateRow, gate_rows
from harness.report.headline import Column, Row, columns, headline_metric, metric_title, rows
from harness.report.notes import Note, notes_under_table, outcome


@dataclass(frozen=True, slots=True)
class Table:
    """A run, ready to print.

    Args:
        run_id, job, profile: of the run.
        started: to the second, UTC.
        elapsed: a dash where the run did not finish.
        samples: how many the accuracy rests on; `calibration_samples` how many the ranges rest on.
        outcome: how the run went, in one sentence.
        all_done: whether every target went to its end.
        verdict: of the gates; its `outcome` is None where nothing was asked.
        gates: worst first; empty where nothing was asked.
        metric: title of the headline metric.
        columns: of numbers, beside target, source and status.
        rows: one a target.
        figures: all of the run, in the order of comparison.csv.
        notes: for beneath the table.
    """

    run_id: str
    job: str
    profile: str
    started: str
    elapsed: str
    samples: int
    calibration_samples: int
    outcome: str
    all_done: bool
    verdict: Verdict
    gates: tuple[GateRow, ...]
    metric: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    notes: tuple[Note, ...]

    @property
    def groups(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """The rows in order, the settings of a sweep under the entry they belong to; "" for rows of their own."""
        found = itertools.groupby(self.rows, key=lambda row: row.entry)
        return tuple((entry, tuple(together)) for entry, together in found)

    @property
    def headings(self) -> tuple[tuple[str, tuple[Column, ...]], ...]:
        """(heading, its columns); a column that stands alone has the heading ""."""
        found: list[tuple[str, tuple[Column, ...]]] = []
        for column in self.columns:
            if column.group and found and found[-1][0] == column.group:
                found[-1] = (column.group, (*found[-1][1], column))
            else:
                found.append((column.group, (column,)))
        return tuple(found)


def build_table(record: RunRecord) -> Table:
    """The table of a run; it depends on nothing but the record."""
    return Table(
        run_id=text.plain(record.run_id),
        job=text.plain(record.job_name),
        profile=text.plain(record.profile),
        started=text.instant(record.started),
        elapsed=text.elapsed(record.started, record.finished),
        samples=record.samples,
        calibration_samples=record.calibration_samples,
        outcome=outcome(record),
        all_done=all(target.status == "done" for target in record.targets),
        verdict=run_verdict(record),
        gates=tuple(gate_rows(record.gates)),
        metric=metric_title(headline_metric(record)),
        columns=columns(record),
        rows=rows(record),
        figures=record.figures,
        notes=notes_under_table(record),
    )
