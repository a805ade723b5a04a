"""Gates as a reader sees them: the same short table on a terminal, in comparison.md and on pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.target_verdict import figure_and_interval
from harness.record.figure import Source
from harness.record.gates import GateResult, Outcome
from harness.report.text import plain

#: Worst first: what a reader must see is on top.
_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate on one target, every cell ready to print.

    Args:
        target: where.
        gate: its name.
        outcome: pass, fail or inconclusive.
        claim: what was asked.
        figure: the value that was judged; a dash where there is none.
        interval: the 95 % interval, or a count of what is exact: "".
        n: independent units, with thousands; "" where none are counted.
        source: "" for a measured figure.
        detail: why it is not decided and what would settle it.
    """

    target: str
    gate: str
    outcome: str
    claim: str
    figure: str
    interval: str
    n: str
    source: str
    detail: str

    @property
    def evidence(self) -> str:
        """Figure, interval, n and, where it is not measured, source: "1.24x [1.22, 1.26], n 23"."""
        parts = [f"{self.figure} {self.interval}".strip()]
        parts += [f"n {self.n}"] if self.n else []
        parts += [self.source] if self.source else []
        return ", ".join(parts)


def gate_rows(results: Sequence[GateResult]) -> list[GateRow]:
    """All gates, worst first, else in the order they were decided."""
    return [_row(result) for result in sorted(results, key=lambda result: _ORDER.index(result.outcome))]


def _row(result: GateResult) -> GateRow:
    figure, interval = figure_and_interval(result)
    other = result.source is not None and result.source is not Source.MEASURED
    return GateRow(
        target=plain(result.target),
        gate=plain(result.gate),
        outcome=result.outcome.value,
        claim=plain(result.claim),
        figure=plain(figure),
        interval=plain(interval),
        n="" if result.n is None else f"{result.n:,}",
        source=result.source.value if other and result.source is not None else "",
        detail=plain(result.detail),
    )
