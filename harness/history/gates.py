"""Gates of a night's jobs: what a night keeps, says and shows of those that did not pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.record.gates import Outcome
from harness.record.run import RunRecord
from harness.report.gates import gate_rows

#: Of an entry of a night.
KEY = "gates"


def open_gates(record: RunRecord) -> list[dict[str, str]]:
    """The gates of a run that did not pass, worst first, as plain JSON."""
    return [
        {
            "target": row.target, "gate": row.gate, "outcome": row.outcome, "claim": row.claim,
            "evidence": row.evidence, "detail": row.detail,
        }
        for row in gate_rows(record.gates) if row.outcome != Outcome.PASS
    ]  # fmt: skip


def gates_of(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Those of a whole night, failed ones first, each with its job; nights of older versions kept none."""
    found = [{"job": entry["job"], **gate} for entry in entries for gate in entry.get(KEY, ())]
    return sorted(found, key=lambda gate: gate["outcome"] != Outcome.FAIL)


def gate_line(gate: Mapping[str, str]) -> str:
    """One line of the mail that cron sends."""
    word = "failed" if gate["outcome"] == Outcome.FAIL else gate["outcome"]
    said = "; ".join(part for part in (gate["evidence"], gate["detail"]) if part)
    return f"{gate['job']} / {gate['target']}: gate {gate['gate']} {word}: {gate['claim']}: {said}"


def gates_text(gates: Iterable[Mapping[str, str]]) -> str:
    """How many of each: "2 gates failed, 1 gate inconclusive"; "" where all passed or none was asked."""
    counted = [gate["outcome"] for gate in gates]
    failed, open_ = (counted.count(one.value) for one in (Outcome.FAIL, Outcome.INCONCLUSIVE))
    return ", ".join(
        f"{count} {'gate' if count == 1 else 'gates'} {word}"
        for count, word in ((failed, "failed"), (open_, "inconclusive"))
        if count
    )
