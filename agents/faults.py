"""What can go wrong on the agent, as values that cross from the child process to the host unchanged."""

from __future__ import annotations

from enum import IntEnum

#: Longest message an agent sends. gRPC carries it in a trailing header, and hosts limit those to 8 KiB.
MESSAGE_CHARACTERS = 600


class Fault(IntEnum):
    """Kinds of failure; each value is the number of the gRPC status that the host sees."""

    INVALID = 3  # INVALID_ARGUMENT: malformed request
    TIMED_OUT = 4  # DEADLINE_EXCEEDED: the child ran past its limit and was ended
    NOT_FOUND = 5  # unknown digest or network
    FORBIDDEN = 7  # PERMISSION_DENIED: wrong role in the certificate
    EXHAUSTED = 8  # RESOURCE_EXHAUSTED: quota, disk or memory
    REFUSED = 9  # FAILED_PRECONDITION: policy, or the check of the network
    CRASHED = 10  # ABORTED: the child process died
    BUG = 13  # INTERNAL: ours
    DATA_LOSS = 15  # a digest does not match


class AgentError(Exception):
    """A failure that the host is told about.

    Args:
        fault: whose fault and of what kind.
        message: names the thing and the remedy; forced into one line.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        self.fault = fault
        self.message = one_line(message)
        super().__init__(self.message)


def one_line(text: str) -> str:
    """`text` with every control character and run of blanks made one space, and cut to `MESSAGE_CHARACTERS`."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"
