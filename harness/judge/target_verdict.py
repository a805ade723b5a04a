"""What came of the gates on one target, as a test asks it: `assert result.verdict.passed`."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.gates_units import value_text
from harness.judge.gates_values import GateResult, Outcome, worst_outcome

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


def gate_line(result: GateResult) -> str:
    """One gate on one line: what was asked, what came, what would settle it."""
    difference = result.metric.endswith("_delta")

    def text(value: float) -> str:
        return value_text(float(f"{value:.4g}"), result.unit, difference=difference)

    parts = []
    if result.value is not None:
        parts.append(text(result.value))
    if result.ci_low is not None and result.ci_high is not None and result.ci_low != result.ci_high:
        parts.append(f"[{text(result.ci_low)}, {text(result.ci_high)}]")
    if result.n is not None:
        parts.append(f"n {result.n:,}")
    evidence = " ".join(parts) or "nothing was measured"
    return f"{result.claim}: {evidence}{f' ({result.detail})' if result.detail else ''}"
