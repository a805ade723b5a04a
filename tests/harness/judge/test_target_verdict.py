"""The gates of one target as a test asks them."""

from __future__ import annotations

import pytest

from harness.judge.target_verdict import TargetVerdict, gate_line
from harness.record.figure import Network, Source
from harness.record.gates import GateResult, Outcome, Rule


def result(outcome: Outcome, detail: str = "") -> GateResult:
    return GateResult(
        "pi", "speedup", "speed-up at least 1.20×", outcome, "speedup", Network.RATIO, Rule.AT_LEAST, 1.2, "x",  # noqa: RUF001
        1.234567, 1.1, 1.4, 12, Source.MEASURED, detail,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "passed", "strictly"),
    [
        ((Outcome.PASS, Outcome.PASS), True, True),
        ((Outcome.PASS, Outcome.INCONCLUSIVE), True, False),
        ((Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL), False, False),
        ((), True, True),  # none holds on this target
    ],
)
def test_inconclusive_counts_only_where_asked(outcomes: tuple[Outcome, ...], passed: bool, strictly: bool) -> None:
    results = tuple(result(one) for one in outcomes)
    assert TargetVerdict("pi", results, asked=True).passed is passed
    assert TargetVerdict("pi", results, asked=True, strict=True).passed is strictly


def test_a_job_without_gates_has_passed_nothing() -> None:
    verdict = TargetVerdict("pi", (), asked=False)
    assert not verdict.passed
    assert "nothing was asked" in repr(verdict)


def test_it_reads_as_one_line_with_the_worst_first() -> None:
    results = (result(Outcome.PASS), result(Outcome.INCONCLUSIVE, "measure longer"), result(Outcome.FAIL))
    text = repr(TargetVerdict("pi", results, asked=True))
    assert text.startswith("<pi: fail: speed-up at least 1.20×: 1.23× [1.10, 1.40], n 12; ")  # noqa: RUF001
    assert text.endswith("(measure longer)>")
    assert gate_line(result(Outcome.INCONCLUSIVE, "why")).endswith("(why)")
