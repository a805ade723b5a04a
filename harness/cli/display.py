"""What a run looks like while it works: bars on a terminal, plain lines in a log, nothing with --json."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from harness.runs.observer import Observer, Silent


class _Bars:
    """One line a target: phase, bar, elapsed time."""

    def __init__(self, progress: Progress, verbose: bool) -> None:
        self._progress = progress
        self._verbose = verbose
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def _task(self, who: str) -> TaskID:
        with self._lock:
            if who not in self._tasks:
                self._tasks[who] = self._progress.add_task(_plain(who), phase="", total=None)
            return self._tasks[who]

    def progress(self, who: str, phase: str, done: float, total: float | None) -> None:
        self._progress.update(self._task(who), phase=phase, completed=done, total=total)

    def message(self, who: str, text: str) -> None:
        self._progress.console.print(f"[dim]{_plain(who)}:[/dim] {_plain(text)}", highlight=False)

    def log(self, who: str, line: str) -> None:
        if self._verbose:
            self.message(who, line)

    def finished(self, who: str, status: str) -> None:
        self._progress.update(self._task(who), phase=status, completed=1, total=1)


class _Lines:
    """For a log file: a line when a phase begins, none while it goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phases: dict[str, str] = {}
        self._lock = threading.Lock()

    def _line(self, who: str, text: str) -> None:
        self._console.print(f"{_plain(who)}: {_plain(text)}", highlight=False, soft_wrap=True)

    def progress(self, who: str, phase: str, done: float, total: float | None) -> None:  # noqa: ARG002
        with self._lock:
            if self._phases.get(who) == phase:
                return
            self._phases[who] = phase
        self._line(who, phase)

    def message(self, who: str, text: str) -> None:
        self._line(who, text)

    def log(self, who: str, line: str) -> None:
        self._line(who, line)

    def finished(self, who: str, status: str) -> None:
        self._line(who, status)


def _plain(text: str) -> str:
    """Keep a board's words from being read as markup."""
    return text.replace("[", "\\[")


@contextmanager
def watching(quiet: bool, verbose: bool = False) -> Iterator[Observer]:
    """The observer that fits where stderr goes (results go to stdout).

    Args:
        quiet: nobody watches.
        verbose: long texts, such as compile logs, go between the bars of a terminal too; a log file has them anyway.
    """
    if quiet:
        yield Silent()
        return
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield _Lines(console)
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("[cyan]{task.fields[phase]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
    )
    with progress:
        yield _Bars(progress, verbose)
