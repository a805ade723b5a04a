"""What a run's results mean: to the script that started it, and to whoever must sign."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import ExitCode
from harness.record.gates import GateResult, Outcome, worst_outcome
from harness.record.run import RunRecord

#: Worst first. An interruption is the user's own doing and outranks what the unfinished run would have said.
_WORST_FIRST = (
    ExitCode.OUR_BUG,
    ExitCode.INTERRUPTED,
    ExitCode.BAD_INPUT,
    ExitCode.BOARD_FAILED,
    ExitCode.GATE_FAILED,
    ExitCode.INCONCLUSIVE,
    ExitCode.GOOD,
)
_CODE = {
    Outcome.PASS: ExitCode.GOOD,
    Outcome.FAIL: ExitCode.GATE_FAILED,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst of what came of the gates.

    Args:
        outcome: of the run; None where nothing was asked.
        targets: (target, outcome) in the run's order; None for a target that no gate holds on.
        passed: how many gates passed; the same for the other two.
    """

    outcome: Outcome | None
    targets: tuple[tuple[str, Outcome | None], ...]
    passed: int
    failed: int
    inconclusive: int

    @property
    def text(self) -> str:
        """One line: "fail: 1 of 6 gates failed, 2 inconclusive"."""
        total = self.passed + self.failed + self.inconclusive
        if self.outcome is None:
            return "no gates: nothing was asked"
        others = [f"{count} {word}" for count, word in ((self.failed, "failed"), (self.inconclusive, "inconclusive"))]
        found = ", ".join(text for text in others if not text.startswith("0 ")) or "all passed"
        return f"{self.outcome}: {total} gate{'s' if total != 1 else ''}, {found}"


def verdict_of(targets: Iterable[str], results: Iterable[GateResult]) -> Verdict:
    """Worst-of: of each target, and of all.

    Args:
        targets: names, in the order to keep.
        results: of all gates.
    """
    decided = tuple(results)
    counted = [result.outcome for result in decided]
    return Verdict(
        worst_outcome(counted),
        tuple((name, worst_outcome(r.outcome for r in decided if r.target == name)) for name in targets),
        counted.count(Outcome.PASS),
        counted.count(Outcome.FAIL),
        counted.count(Outcome.INCONCLUSIVE),
    )


def run_verdict(record: RunRecord) -> Verdict:
    """The verdict of a run on its own gates."""
    return verdict_of((target.name for target in record.targets), record.gates)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The worst that happened, in the order 70, 2, 3, 1, 4; GOOD when nothing did."""
    return min(codes, key=_WORST_FIRST.index, default=ExitCode.GOOD)


def gate_code(outcome: Outcome) -> ExitCode:
    """What one gate's outcome means to a script."""
    return _CODE[outcome]


def exit_code(record: RunRecord, gates: Iterable[ExitCode] = ()) -> ExitCode:
    """The exit code of a run.

    Args:
        record: with every target `done` the run itself is GOOD; a target that was never reached leaves it
            INCONCLUSIVE; any other status is a failed board. Its own gates count.
        gates: outcome of further gates: GOOD, GATE_FAILED or INCONCLUSIVE.
    """
    codes = [_of_status(target.status) for target in record.targets]
    return worst([*codes, *(gate_code(result.outcome) for result in record.gates), *gates])


def _of_status(status: str) -> ExitCode:
    if status == "done":
        return ExitCode.GOOD
    return ExitCode.INCONCLUSIVE if status == "pending" else ExitCode.BOARD_FAILED
