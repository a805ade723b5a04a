"""Which of a console's words explain a failure of the run, in one sentence, and what they let expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import BoardError
from harness.targets.console.events import BootStage, ConsoleEvent, EventKind

#: A dead connection is noticed within 30 s (keepalive of `connect`), a call in flight may wait longer for its answer.
BEFORE_S = 60.0
#: A console at 115,200 baud and a terminal server's buffer are behind by less than this.
AFTER_S = 10.0

#: What is nearer to the cause comes first: a panic after an out-of-memory kill is the kill's consequence on a board
#: whose init was killed, but the panic is what ended the run.
_CAUSES = (
    EventKind.PANIC,
    EventKind.OOM_KILL,
    EventKind.THERMAL,
    EventKind.OOPS,
    EventKind.WATCHDOG,
    EventKind.IO_ERROR,
    EventKind.UNDER_VOLTAGE,
)


def explain(events: Sequence[ConsoleEvent], at_unix_s: float) -> str | None:
    """The sentence that goes with a failure at `at_unix_s`; None where the console said nothing to the point.

    Args:
        events: of the board's console, in order of time.
        at_unix_s: when the failure was noticed.
    """
    near = [event for event in events if at_unix_s - BEFORE_S <= event.unix_s <= at_unix_s + AFTER_S]
    for kind in _CAUSES:
        of_kind = [event for event in near if event.kind is kind]
        if of_kind:
            return _sentence(of_kind[0], at_unix_s)
    restarts = [event for event in near if _begins_boot(event)]
    if restarts:
        return f"its console shows that the board restarted {_when(restarts[0], at_unix_s)}: {_quoted(restarts[0])}"
    return None


def explained(error: BoardError, events: Sequence[ConsoleEvent], at_unix_s: float) -> BoardError:
    """The same error with the console's explanation at its end, where there is one."""
    sentence = explain(events, at_unix_s)
    return error if sentence is None else type(error)(error.target, f"{error.message}; {sentence}")


def remarks(events: Sequence[ConsoleEvent]) -> tuple[str, ...]:
    """What a reader of a run's figures must know of the console, a sentence for each kind of disturbance."""
    found = []
    for kind in _CAUSES:
        of_kind = [event for event in events if event.kind is kind]
        if of_kind:
            times = "once" if len(of_kind) == 1 else f"{len(of_kind)} times"
            found.append(f"its console said {times} during the run: {of_kind[0].summary} ({_quoted(of_kind[0])})")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Prognosis:
    """What a console lets expect of a board that does not answer.

    Args:
        boots: it is starting by itself, and waiting helps; else its kernel has stopped, and only a reset does.
        sentence: the reason, for a person.
        unix_s: when the console said so.
    """

    boots: bool
    sentence: str
    unix_s: float


def prognosis(events: Sequence[ConsoleEvent]) -> Prognosis | None:
    """What the last word about the kernel's life means; None where a board that runs is likely.

    Args:
        events: of the board's console, in order of time. Disturbances, an oops among them, do not count: the kernel may
            go on after them.
    """
    for event in reversed(events):
        if event.kind is EventKind.LOGIN:
            return None
        if event.kind is EventKind.PANIC:
            return Prognosis(False, f"its kernel has stopped: {event.summary}", event.unix_s)
        if event.kind is EventKind.RESTART or _begins_boot(event):
            return Prognosis(True, f"it is starting: {event.summary}", event.unix_s)
    return None


def _begins_boot(event: ConsoleEvent) -> bool:
    return event.kind is EventKind.BOOT and event.stage in {
        BootStage.FIRMWARE,
        BootStage.BOOT_LOADER,
        BootStage.LOADING_KERNEL,
        BootStage.KERNEL,
    }


def _sentence(event: ConsoleEvent, at_unix_s: float) -> str:
    return f"its console said {_when(event, at_unix_s)}: {event.summary} ({_quoted(event)})"


def _when(event: ConsoleEvent, at_unix_s: float) -> str:
    apart_s = at_unix_s - event.unix_s
    return f"{apart_s:.1f} s before" if apart_s >= 0 else f"{-apart_s:.1f} s after"


def _quoted(event: ConsoleEvent) -> str:
    line = event.line if len(event.line) <= 200 else event.line[:199] + "…"
    return f"'{line}'"
