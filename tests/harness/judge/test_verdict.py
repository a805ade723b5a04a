"""Exit codes: the worst that happened."""

from __future__ import annotations

import itertools

import pytest

from harness.errors import ExitCode
from harness.judge.verdict import exit_code, worst
from harness.record.figure import Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord


def run(*statuses: str) -> RunRecord:
    targets = tuple(
        TargetRecord(f"t{i}", "generic", "cpu", "local", Source.MEASURED, s) for i, s in enumerate(statuses)
    )
    return RunRecord("r", "j", {}, "0" * 64, "quick", "validation", 1, 1, "2026-01-01T00:00:00Z", None, {}, targets)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("done", "done"), 0),
        (("done", "crashed"), 3),
        (("done", "pending"), 4),
        (("pending", "unreachable"), 3),
        (("bad-result",), 3),
        ((), 0),
    ],
)
def test_a_run_without_gates(statuses: tuple[str, ...], code: int) -> None:
    assert exit_code(run(*statuses)) == code


def test_gates_count_and_the_order_is_that_of_the_contract() -> None:
    assert exit_code(run("done"), [ExitCode.GATE_FAILED, ExitCode.INCONCLUSIVE]) == 1
    assert exit_code(run("crashed"), [ExitCode.GATE_FAILED]) == 3
    order = [70, 2, 3, 1, 4, 0]
    for bad, less in itertools.combinations(order, 2):
        assert worst([ExitCode(less), ExitCode(bad)]) == bad
    assert worst([]) == 0
