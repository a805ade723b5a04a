"""What came of the gates on one target, as a test asks it: `assert result.verdict.passed`."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.numbers import interval_text, threshold_text, value_text
from harness.record.figure import Source
from harness.record.gates import GateResult, Outcome, worst_outcome

_WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True, repr=False)
class TargetVerdict:
    """The gates of a job on one target.

    Args:
        target: which.
        results: what came of each.
        asked: whether the job has gates at all; a job without them has passed nothing.
        strict: whether an inconclusive gate counts against it.
    """

    target: str
    results: tuple[GateResult, ...]
    asked: bool
    strict: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """The worst of the gates; None where none holds on this target."""
        return worst_outcome(result.outcome for result in self.results)

    @property
    def passed(self) -> bool:
        """No gate failed (strict: nor is any inconclusive), and something was asked."""
        good = {None, Outcome.PASS} if self.strict else {None, Outcome.PASS, Outcome.INCONCLUSIVE}
        return self.asked and self.outcome in good

    def of(self, outcome: Outcome) -> tuple[GateResult, ...]:
        """The gates of that outcome."""
        return tuple(result for result in self.results if result.outcome is outcome)

    @property
    def text(self) -> str:
        """One line, the worst first."""
        if not self.asked:
            return f"{self.target}: the job has no gates: nothing was asked"
        if self.outcome is None:
            return f"{self.target}: no gate of the job holds here"
        told = [gate_line(one) for outcome in _WORST_FIRST[:2] for one in self.of(outcome)]
        return f"{self.target}: {self.outcome}: {'; '.join(told) or f'all {len(self.results)} gates'}"

    def __repr__(self) -> str:
        """As pytest prints it beside a failed assertion."""
        return f"<{self.text}>"


def figure_and_interval(result: GateResult) -> tuple[str, str]:
    """The figure that was judged and the interval that decided, in the words of the tables.

    A dash where there is no figure; "" where it is exact, or has no interval. Bytes are counted as the claim beside
    them counts them: 72.8924 MB, asked for at most 200 MB.
    """
    figure = value_text(result.value, result.unit, result.metric)
    if result.unit == "bytes" and result.value is not None:
        figure = threshold_text(result.value, result.unit)
    if result.ci_low == result.ci_high:
        return figure, ""
    if result.ci_low is None and result.ci_high is not None:
        return figure, f"at most {value_text(result.ci_high, result.unit, result.metric)}"
    return figure, interval_text(result.ci_low, result.ci_high, result.unit, result.metric)


def evidence_text(result: GateResult) -> str:
    """Figure, interval, n and, where it is not measured, source: "1.24× [1.22, 1.26], n 23"."""  # noqa: RUF002
    parts = [" ".join(part for part in figure_and_interval(result) if part)]
    parts += [f"n {result.n:,}"] if result.n is not None else []
    if result.source is not None and result.source is not Source.MEASURED:
        parts.append(result.source.value)
    return ", ".join(parts)


def gate_line(result: GateResult) -> str:
    """One gate on one line: what was asked, what came, what would settle it."""
    evidence = "nothing was measured" if result.value is None else evidence_text(result)
    return f"{result.claim}: {evidence}{f' ({result.detail})' if result.detail else ''}"
