"""comparison.md: the headline table for a merge request or a wiki."""

from __future__ import annotations

import re

from harness.judge.verdict import run_verdict
from harness.record import RunRecord
from harness.report.gates import gate_rows
from harness.report.table import DisplayRow, comparison_rows, headline_metric, metric_title, notes_under_table, outcome
from harness.report.text import elapsed, instant, plain

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
    title = metric_title(headline_metric(record))
    headers = [
        "target",
        "board",
        "environment",
        f"{title}, Floating-Point",
        f"{title}, Quantized",
        "difference [95 %]",
        "top-1 agreement",
        "p50 latency, Floating-Point, ms",
        "p50 latency, Quantized, ms",
        "speed-up [95 %]",
        "learnable memory",
        "source",
        "status",
    ]
    lines = [
        f"# {escape(record.job_name)}: Floating-Point and Quantized side by side",
        "",
        escape(outcome(record))
        + f" {record.samples:,} samples, {record.calibration_samples:,} calibration samples, profile "
        f"{escape(record.profile)}, {escape(instant(record.started))}, {elapsed(record.started, record.finished)}, "
        f"run {escape(record.run_id)}.",
        "",
        _line([escape(header) for header in headers]),
        _line(["---"] * 3 + ["---:"] * 8 + ["---"] * 2),
    ]
    lines += [_line(_cells(row)) for row in comparison_rows(record)]
    if record.gates:
        lines += ["", *_gates(record)]
    lines += ["", *(f"- {escape(note.line)}" for note in notes_under_table(record)), ""]
    return "\n".join(lines)


def _gates(record: RunRecord) -> list[str]:
    headers = ["outcome", "target", "gate", "figure", "95 %", "n", "source", "what would settle it"]
    lines = [
        f"**Verdict: {escape(run_verdict(record).text)}**",
        "",
        _line([escape(header) for header in headers]),
        _line(["---"] * 3 + ["---:"] * 3 + ["---"] * 2),
    ]
    for row in gate_rows(record.gates):
        cells = [row.outcome, row.target, row.claim, row.figure, row.interval, row.n, row.source, row.detail]
        lines.append(_line([escape(cell) for cell in cells]))
    return lines


def _cells(row: DisplayRow) -> list[str]:
    cells = [
        row.target,
        row.board,
        row.environment,
        row.accuracy_float,
        row.accuracy_quantized,
        f"{row.delta} {row.delta_interval}".strip(),
        row.agreement,
        _marked(row.latency_float, row.latency_float_source),
        _marked(row.latency_quantized, row.latency_quantized_source),
        _marked(f"{row.speedup} {row.speedup_interval}".strip(), row.speedup_source),
        f"{row.memory_float} → {row.memory_quantized}",
        row.full_source,
        row.status,
    ]
    return [escape(cell) for cell in cells]


def _marked(value: str, source: str) -> str:
    """A number of another kind than the rest of its row or column says so itself."""
    return f"{value} ({source})" if source else value


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
