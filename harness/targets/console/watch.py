"""A thread that reads a board's console for as long as a run lasts: keeps it, understands it, waits for words in it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness.errors import BoardError, Unreachable
from harness.targets.console.events import BootStage, ConsoleEvent, EventKind
from harness.targets.console.lock import console_lock
from harness.targets.console.log import TimedLog
from harness.targets.console.patterns import is_login_prompt, recognize_all
from harness.targets.console.port import READ_WAIT_S, Port, check_url
from harness.targets.console.text import LineAssembler

if TYPE_CHECKING:
    from harness.targets.target import Console

#: Lines and events kept in memory; the log has all of them.
KEPT_LINES = 20_000
KEPT_EVENTS = 2_000
#: A port that dropped is tried again after this, doubled up to the second, s: a USB adapter is back in about a second.
RETRY_S = (0.1, 2.0)


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """One line and when its end arrived (a prompt: when it was seen)."""

    text: str
    unix_s: float


@dataclass(frozen=True, slots=True)
class BootOutcome:
    """How a boot ended.

    Args:
        reached: the login prompt came.
        stage: the last one seen; None where the console said nothing of a boot.
        seconds: from the beginning of the watch to its end.
        sentence: the same in words.
        failure: the event that ended it, such as a panic.
    """

    reached: bool
    stage: BootStage | None
    seconds: float
    sentence: str
    failure: ConsoleEvent | None = None


class ConsoleWatch:
    """Reads one console on a thread of its own; a port that drops is opened again until the end.

    Args:
        target: name in targets.yaml.
        console: where it is.
        log: file that keeps every line with its time.
        purpose: told to whoever wants the same console meanwhile.
        on_event: called for each event, from the reading thread.
        on_bytes: called with everything as it comes, from the reading thread.
    """

    def __init__(
        self,
        target: str,
        console: Console,
        log: Path,
        *,
        purpose: str = "a console watch",
        on_event: Callable[[ConsoleEvent], None] | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> None:
        self._target = target
        self._console = console
        self._log_path = log
        self._purpose = purpose
        self._on_event = on_event
        self._on_bytes = on_bytes
        self._prompt = re.compile(console.prompt) if console.prompt else None
        self._text = LineAssembler()
        self._lines: deque[ConsoleLine] = deque(maxlen=KEPT_LINES)
        self._dropped = 0  # lines that left the front of the deque: positions stay valid
        self._events: deque[ConsoleEvent] = deque(maxlen=KEPT_EVENTS)
        self._events_dropped = 0
        self._prompt_seen = False
        self._news = threading.Condition()
        self._end = threading.Event()
        self._port: Port | None = None
        self._lost: str | None = None
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._read, name=f"console-{target}", daemon=True)

    # -- its life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Take the console's lock, open it and begin to read.

        Raises:
            Refused: somebody else reads it, or no right to open it.
            Unreachable: it cannot be opened.
            UserError: its URL is of no known kind.
        """
        check_url(self._target, self._console.url)
        with contextlib.ExitStack() as stack:
            stack.enter_context(console_lock(self._target, self._console.url, self._purpose))
            self._port = Port(self._target, self._console)
            stack.callback(self._close_port)
            self._log = stack.enter_context(TimedLog(self._log_path))
            self._note(f"console {self._console.url} opened for {self._purpose}")
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if rest := self._text.flush():
            self._write(rest, time.time())
        self._note("console closed")
        self._stack.close()

    def _close_port(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()

    # -- the reading thread -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        retry_s = RETRY_S[0]
        while not self._end.is_set():
            port = self._port
            if port is None:
                if self._end.wait(retry_s):
                    return
                retry_s = min(2 * retry_s, RETRY_S[1])
                if self._reopen():
                    retry_s = RETRY_S[0]
                continue
            try:
                data = port.read()
            except OSError as error:
                self._drop(error)
                continue
            if data:
                self._take(data)

    def _reopen(self) -> bool:
        try:
            port = Port(self._target, self._console)
        except BoardError:
            return False
        with self._news:
            self._port, self._lost = port, None
            self._news.notify_all()
        self._note("console opened again")
        return True

    def _drop(self, error: OSError) -> None:
        why = " ".join(str(error).split())
        with self._news:
            self._close_port()
            self._lost = why
            self._news.notify_all()
        with self._news:
            rest = self._text.flush()
            found = self._kept([rest] if rest else [])
        self._tell(found)
        self._note(f"console lost ({why}); trying again")

    def _take(self, data: bytes) -> None:
        if self._on_bytes is not None:
            self._on_bytes(data)
        with self._news:  # nobody sees the line that has not ended before those that came with it
            found = self._kept(self._text.feed(data))
        self._tell(found)

    def _kept(self, texts: list[str]) -> list[ConsoleEvent]:
        """The events of new lines, which are kept; the caller holds the lock."""
        now = time.time()
        found: list[ConsoleEvent] = []
        for text in texts:
            self._write(text, now)
            if len(self._lines) == KEPT_LINES:
                self._dropped += 1
            self._lines.append(ConsoleLine(text, now))
            events = recognize_all(text, now) or self._own_prompt(text, now)
            found += [event for event in events if event.kind is not EventKind.LOGIN or not self._prompt_seen]
            self._prompt_seen = False
        partial = self._text.partial
        if partial and not self._prompt_seen and self._is_prompt(partial):
            self._prompt_seen = True  # the line may still grow by a typed name: one prompt, one event
            found.append(ConsoleEvent(EventKind.LOGIN, "login prompt", partial, now, stage=BootStage.LOGIN))
        for event in found:
            if len(self._events) == KEPT_EVENTS:
                self._events_dropped += 1
            self._events.append(event)
        self._news.notify_all()
        return found

    def _tell(self, found: list[ConsoleEvent]) -> None:
        if self._on_event is not None:
            for event in found:
                self._on_event(event)

    def _own_prompt(self, text: str, unix_s: float) -> list[ConsoleEvent]:
        if self._prompt is None or not self._is_prompt(text):
            return []
        return [ConsoleEvent(EventKind.LOGIN, "login prompt", text, unix_s, stage=BootStage.LOGIN)]

    def _is_prompt(self, text: str) -> bool:
        return is_login_prompt(text) if self._prompt is None else self._prompt.search(text) is not None

    def _note(self, text: str) -> None:
        self._write(f"-- {text}", time.time())

    def _write(self, text: str, unix_s: float) -> None:
        """Keep a line; a disk that is full costs the log, not the watch."""
        with contextlib.suppress(OSError):
            self._log.write(text, unix_s)

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        """Where every line is kept."""
        return self._log_path

    @property
    def events(self) -> tuple[ConsoleEvent, ...]:
        """What was recognized so far, in order of time."""
        with self._news:
            return tuple(self._events)

    @property
    def lines(self) -> tuple[ConsoleLine, ...]:
        """The lines so far (the last `KEPT_LINES`)."""
        with self._news:
            return tuple(self._lines)

    @property
    def connected(self) -> bool:
        """Whether the port is open at this moment."""
        with self._news:
            return self._port is not None

    def mark(self) -> int:
        """A position in the stream of lines: `expect` and `await_boot` look at what comes after it."""
        with self._news:
            return self._dropped + len(self._lines)

    def send(self, data: bytes) -> None:
        """Write to the board.

        Raises:
            Unreachable: the port is lost at this moment.
        """
        with self._news:
            port, lost = self._port, self._lost
        if port is None:
            raise Unreachable(self._target, f"its console is lost ({lost}); it is opened again when it comes back")
        try:
            port.write(data)
        except OSError as error:  # the reading thread meets the same and opens it again
            raise Unreachable(self._target, f"its console is lost ({error})") from error

    def expect(
        self,
        pattern: re.Pattern[str],
        timeout_s: float,
        *,
        since: int | None = None,
        stop: threading.Event | None = None,
    ) -> ConsoleLine | None:
        """The first line, ended or not, in which `pattern` is found; None when none came in time.

        Args:
            pattern: searched for in clean text.
            timeout_s: how long to wait.
            since: a `mark`; None: from the beginning of the watch.
            stop: ends the wait.
        """
        deadline = time.monotonic() + timeout_s
        position = 0 if since is None else since
        with self._news:
            while True:
                end = self._dropped + len(self._lines)
                for index in range(max(position, self._dropped), end):
                    line = self._lines[index - self._dropped]
                    if pattern.search(line.text):
                        return line
                position = end
                partial = self._text.partial
                if partial and pattern.search(partial):
                    return ConsoleLine(partial, time.time())
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (stop is not None and stop.is_set()):
                    return None
                self._news.wait(min(left_s, READ_WAIT_S) if stop is not None else left_s)

    def await_event(
        self, wanted: Callable[[Sequence[ConsoleEvent]], bool], timeout_s: float, *, stop: threading.Event | None = None
    ) -> bool:
        """Wait until the events so far satisfy `wanted`; whether they did in time.

        A board's last words and the end of its connection come at the same moment, and the words are slower.
        """
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not wanted(tuple(self._events)):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (stop is not None and stop.is_set()):
                    return False
                self._news.wait(min(left_s, READ_WAIT_S))
        return True

    def boot_mark(self) -> int:
        """Like `mark`, in the stream of events: give it to `await_boot` before switching the power."""
        with self._news:
            return self._events_dropped + len(self._events)

    def await_boot(
        self, timeout_s: float, *, since: int | None = None, stop: threading.Event | None = None
    ) -> BootOutcome:
        """Watch a boot to its login prompt.

        Args:
            timeout_s: how long a boot may take.
            since: a `boot_mark`; None: from now.
            stop: ends the wait.

        Returns:
            Reached, or how far it came; a panic ends the wait at once.
        """
        begun = time.monotonic()
        with self._news:
            position = self._events_dropped + len(self._events) if since is None else since
            stage: BootStage | None = None
            while True:
                end = self._events_dropped + len(self._events)
                for index in range(max(position, self._events_dropped), end):
                    event = self._events[index - self._events_dropped]
                    seconds = time.monotonic() - begun
                    stage = event.stage or stage
                    if event.kind is EventKind.LOGIN:
                        return BootOutcome(True, stage, seconds, f"login prompt after {seconds:.1f} s")
                    if event.kind is EventKind.PANIC:
                        return BootOutcome(False, stage, seconds, f"the boot ended in a {event.summary}", event)
                position = end
                seconds = time.monotonic() - begun
                if seconds >= timeout_s or (stop is not None and stop.is_set()):
                    reached = f"it came as far as: {stage.value}" if stage else "its console said nothing of a boot"
                    return BootOutcome(False, stage, seconds, f"no login prompt within {seconds:.0f} s; {reached}")
                self._news.wait(min(timeout_s - seconds, READ_WAIT_S))
