"""Errors, split by whose fault they are; each class knows the exit code of the command that meets it.

A message is one line: what is wrong, where, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means to a script."""

    GOOD = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    BOARD_FAILED = 3
    INCONCLUSIVE = 4
    OUR_BUG = 70
    INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


class QuantrigError(Exception):
    """Base of every error we raise on purpose."""

    exit_code = ExitCode.OUR_BUG


class UserError(QuantrigError):
    """The input is wrong: a file, a field, an option. One line that names it and the remedy."""

    exit_code = ExitCode.BAD_INPUT


class BoardError(QuantrigError):
    """A board or its agent failed; the other boards of the run go on.

    Args:
        target: name of the entry in targets.yaml.
        message: one line: what happened and what to do.
    """

    exit_code = ExitCode.BOARD_FAILED
    #: the word published in the `status` of the target's rows
    status = "failed"

    def __init__(self, target: str, message: str) -> None:
        super().__init__(f"{target}: {message}")
        self.target = target
        self.message = message

    def __reduce__(self) -> tuple[type[BoardError], tuple[str, str]]:
        """Keep both arguments when the error crosses a process boundary."""
        return (type(self), (self.target, self.message))


class Unreachable(BoardError):
    """Nothing answers at the target's address: wrong address, no route, agent not started."""

    status = "unreachable"


class Offline(BoardError):
    """The agent answered before and does not now: the board lost power or network, or its agent died."""

    status = "crashed"


class Refused(BoardError):
    """The agent is alive and says no: policy, quota, a network that fails its checks, a wrong certificate."""

    status = "refused"


class Crashed(BoardError):
    """The network's process on the board died: a signal, out of memory."""

    status = "crashed"


class TimedOut(BoardError):
    """The board did not finish within the time it was given."""

    status = "timed-out"


class Throttled(BoardError):
    """The board lowered its clocks too often for its times to mean anything."""

    status = "throttled"


class Quarantined(BoardError):
    """The board failed beyond recovery earlier and waits for somebody to look at it."""

    status = "quarantined"


class BadResult(BoardError):
    """The board returned values that cannot be: NaN outputs, negative latencies, wrong shapes."""

    status = "bad-result"
