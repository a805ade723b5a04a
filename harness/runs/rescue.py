"""A board that is lost in the middle of a run: its console explains why, the ladder brings it back, the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BoardError, Offline, TimedOut, Unreachable, UserError
from harness.record.target import RecoveryStep
from harness.targets.console.events import ConsoleEvent
from harness.targets.console.explain import explain, explained, remarks
from harness.targets.console.watch import ConsoleWatch
from harness.targets.errors_map import CallCancelled
from harness.targets.recovery import climb
from harness.targets.recovery_means import recovery_limits, recovery_means
from harness.targets.target import Target

#: A board that is lost a third time has a fault that no reset removes.
MOST_RESCUES = 2
#: A terminal server holds a panic's lines back for less than this, s.
_LAST_WORDS_S = 1.0
#: Failures that mean the board itself may be gone; others say that it is alive.
_LOST = (Unreachable, Offline, TimedOut)


@contextmanager
def watched_console(
    target: Target, logs: Path, run_id: str, say: Callable[[str], None]
) -> Iterator[ConsoleWatch | None]:
    """The board's console, read for as long as the block runs; None where it has none or it cannot be opened.

    Args:
        target: an entry of the lab file.
        logs: its log is `logs/<target>/console.log`.
        run_id: told to whoever wants the console meanwhile.
        say: told why it cannot be opened; a run does without.
    """
    if target.console is None:
        yield None
        return
    watch = ConsoleWatch(target.name, target.console, logs / target.name / "console.log", purpose=f"run {run_id}")
    try:
        watch.__enter__()
    except (BoardError, UserError, OSError) as error:
        say(f"no console during this run: {error.message if isinstance(error, BoardError) else error}")
        yield None
        return
    try:
        yield watch
    finally:
        watch.__exit__(None, None, None)


@dataclass
class Rescue:
    """Brings one target of a run back when it is lost.

    Args:
        target: an entry of the lab file.
        logs: folder of the run's logs.
        console: the watch of its console; None: there is none.
        stop: of the run.
        say: one line for the screen.
        keep: keeps each step as it ends.
    """

    target: Target
    logs: Path
    console: ConsoleWatch | None
    stop: threading.Event
    say: Callable[[str], None]
    keep: Callable[[RecoveryStep], None]
    _rescues: int = 0
    _mended_unix_s: float = 0.0  # what the console said before explains no failure after
    _sentences: list[str] = field(default_factory=list)

    def after(self, error: BoardError, *, reached: bool) -> None:
        """Return when the board is back and the run can go on; raise what it ends with otherwise.

        Args:
            error: how the board failed.
            reached: it answered before in this run; one that never did has a wrong address more likely than a fault.

        Raises:
            BoardError: `error` with what the console and the ladder say about it.
        """
        told = self._explained(error)
        lost = isinstance(error, _LOST) and not isinstance(error, CallCancelled)
        if self.stop.is_set() or not (lost and reached) or self._rescues >= MOST_RESCUES:
            raise told from error
        means = recovery_means(
            self.target,
            work_dir=self.logs,
            console=self.console,
            stop=self.stop,
            since_unix_s=self._mended_unix_s,
        )
        if not means.any:
            raise told from error
        self._rescues += 1
        self.say(f"{told.message}; trying to bring it back")
        ended = climb(means, told.message, limits=recovery_limits(self.target), stop=self.stop, on_step=self._step)
        if not ended.recovered:
            raise type(error)(self.target.name, f"{told.message}; {ended.sentence}") from error
        self._mended_unix_s = time.time()
        self._sentences.append(
            f"the board was lost during the run ({told.message}) and {ended.sentence}; figures are of before and after"
        )
        self.say(f"{ended.sentence}; going on")

    def _explained(self, error: BoardError) -> BoardError:
        if self.console is None or isinstance(error, CallCancelled):
            return error
        noticed = time.time()

        def since_then(events: Sequence[ConsoleEvent]) -> list[ConsoleEvent]:
            return [event for event in events if event.unix_s >= self._mended_unix_s]

        self.console.await_event(
            lambda events: explain(since_then(events), noticed) is not None, _LAST_WORDS_S, stop=self.stop
        )
        return explained(error, since_then(self.console.events), noticed)

    def _step(self, step: RecoveryStep) -> None:
        self.keep(step)
        self.say(f"recovery: {step.name}: {step.outcome} ({step.detail})")

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know: rescues, and the console's words."""
        return (*self._sentences, *(remarks(self.console.events) if self.console is not None else ()))
