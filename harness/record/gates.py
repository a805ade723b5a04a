"""What came of a gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from harness.record.figure import Network, Source


class Outcome(StrEnum):
    """What came of a gate, best first."""

    PASS = "pass"  # noqa: S105 - the word a reader sees, no secret
    INCONCLUSIVE = "inconclusive"  # the evidence at hand decides neither way
    FAIL = "fail"


class Rule(StrEnum):
    """What is asked of a figure; the values are the fields of a gate in YAML."""

    NON_INFERIOR = "non_inferior_by"  # Quantized loses less than the threshold against Floating-Point
    AT_LEAST = "at_least"
    AT_MOST = "at_most"


_WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Fail before inconclusive before pass; None where there is none: nothing was asked."""
    return min(outcomes, key=_WORST_FIRST.index, default=None)


@dataclass(frozen=True, slots=True)
class GateResult:
    """What came of one gate on one target, with the evidence.

    Args:
        target: where.
        gate: its name.
        claim: what was asked, for a reader: "Quantized latency p99 at most 20 ms".
        outcome: decided by the ends of the interval, never by the point alone.
        metric: of the figure.
        network: of the figure.
        rule: what was asked.
        threshold: in `unit`.
        unit: of threshold, value and interval.
        value: of the figure, None where there is none. Of `NON_INFERIOR`: Quantized minus Floating-Point.
        ci_low: lower end of what decided; equal to `value` for a count.
        ci_high: upper end.
        n: independent units behind it.
        source: how the figure came to be, None where there is none.
        detail: why it is not decided and what would settle it; "" where it is decided and nothing needs saying.
    """

    target: str
    gate: str
    claim: str
    outcome: Outcome
    metric: str
    network: Network
    rule: Rule
    threshold: float
    unit: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    source: Source | None = None
    detail: str = ""
