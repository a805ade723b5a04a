"""Changes as a failed test prints them: which board, which figure, by how much, how sure, since which run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.history.baseline import AgainstBaseline
from harness.history.chart import size_text
from harness.judge.baseline import Change
from harness.judge.comparison import Comparison
from harness.judge.target_verdict import gate_line
from harness.record.gates import Outcome
from harness.report.text import MISSING, instant, plain, value_text
from harness.store.baselines import Candidate

#: A commit is shown by this many digits.
_SHORT = 9


def against_lines(job: str, found: AgainstBaseline) -> list[str]:
    """Everything that is not as good as it was, the certain first, and what else changed."""
    worse = len(found.regressions)
    count = f"{worse} of {len(found.changes)} figures {'is' if worse == 1 else 'are'} worse"
    if not worse:
        count = f"{len(found.unclear)} of {len(found.changes)} figures may be worse"
    lines = [f"{job} on {found.target}: {count} than in {_run(found.baseline)}"]
    lines += [f"  {change_line(change)}" for change in found.regressions]
    lines += [f"  unclear: {change_line(change)}" for change in found.unclear]
    lines += [f"  {line}" for line in _surroundings(found)]
    return [plain(line) for line in lines]


def unclear_lines(job: str, found: AgainstBaseline) -> Iterator[str]:
    """One line where a loss can be neither shown nor excluded, for a warning."""
    if found.unclear:
        listed = "; ".join(change_line(change) for change in found.unclear)
        yield plain(f"{job} on {found.target}: unclear beside {_run(found.baseline)}: {listed}")


def change_line(change: Change) -> str:
    """One figure: "Quantized latency_p50_ms: 1.20 ms → 1.31 ms: +9.2 % [+7.9 %, +10.5 %], 5 % may be lost"."""

    def size(value: float) -> str:
        return size_text(value, change.unit, change.metric, relative=change.relative)

    then, now = (
        MISSING if value is None else value_text(value, change.unit, change.metric)
        for value in (change.old, change.new)
    )
    text = f"{change.network} {change.metric}: {then} → {now}"
    if change.change is not None:
        text += f": {size(change.change)}"
    if change.interval is not None and change.interval[0] != change.interval[1]:
        text += f" [{size(change.interval[0])}, {size(change.interval[1])}]"
    if change.interval is not None:
        text += f", {_tolerance(change)} may be lost"
    return f"{text} ({change.note})" if change.note else text


def _tolerance(change: Change) -> str:
    unit = " %" if change.relative else " pt" if change.unit == "fraction" else f" {change.unit}".rstrip()
    scale = 100 if change.relative or change.unit == "fraction" else 1
    return f"{scale * change.tolerance:.4g}{unit}"


def changes_lines(changes: Iterable[Change]) -> list[str]:
    """Changes that a test compared with something else, one a line."""
    return [plain(f"{change.target}: {change_line(change)}") for change in changes]


def gates_lines(result: Comparison) -> list[str]:
    """The gates of a test's run that did not pass."""
    return [
        plain(f"{result.record.job_name} on {result.target.name}: {gate.outcome}: {gate.gate}: {gate_line(gate)}")
        for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)
        for gate in result.verdict.of(outcome)
    ]


def _surroundings(found: AgainstBaseline) -> Iterator[str]:
    by_cause: dict[str, list[str]] = {}
    for one in found.surroundings:
        by_cause.setdefault(one.cause.value, []).append(str(one))
    if not by_cause:
        yield "since then nothing that is recorded changed"
    for cause, listed in by_cause.items():
        yield f"since then the {cause} changed: {', '.join(listed)}"


def _run(one: Candidate | None) -> str:
    if one is None:
        return "no run"
    where = ""
    if one.revision is not None:
        where = f" of {one.revision.branch or 'no branch'} {one.revision.commit[:_SHORT]}"
        where += " with uncommitted changes" if one.revision.dirty else ""
    return f"run {one.run_id}{where}, {instant(one.started)}"
