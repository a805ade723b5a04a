"""What a run's results mean to the script that started it."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import ExitCode
from harness.record import RunRecord

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


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The worst that happened, in the order 70, 2, 3, 1, 4; GOOD when nothing did."""
    return min(codes, key=_WORST_FIRST.index, default=ExitCode.GOOD)


def exit_code(record: RunRecord, gates: Iterable[ExitCode] = ()) -> ExitCode:
    """The exit code of a run.

    Args:
        record: with every target `done` the run itself is GOOD; a target that was never reached leaves it
            INCONCLUSIVE; any other status is a failed board.
        gates: outcome of each gate: GOOD, GATE_FAILED or INCONCLUSIVE. A run without gates passes none.
    """
    codes = [_of_status(target.status) for target in record.targets]
    return worst([*codes, *gates])


def _of_status(status: str) -> ExitCode:
    if status == "done":
        return ExitCode.GOOD
    return ExitCode.INCONCLUSIVE if status == "pending" else ExitCode.BOARD_FAILED
