"""The log of a night: every line that the runs said, with its time, in one file."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from harness.report.text import plain


class NightLog:
    """An observer that writes lines; a phase is told when it begins."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._phases: dict[str, str] = {}
        self._lock = threading.Lock()

    def line(self, who: str, words: str) -> None:
        """One line."""
        stamp = datetime.now(UTC).strftime("%H:%M:%S")
        with self._lock:
            if not self._file.closed:
                self._file.write(f"{stamp} {plain(who)}: {plain(words)}\n")
                self._file.flush()

    def progress(self, who: str, phase: str, done: float, total: float | None) -> None:  # noqa: ARG002
        """A line when the phase is another one."""
        if self._phases.get(who) != phase:
            self._phases[who] = phase
            self.line(who, phase)

    def message(self, who: str, text: str) -> None:
        """As it is."""
        self.line(who, text)

    def log(self, who: str, line: str) -> None:
        """As it is."""
        self.line(who, line)

    def finished(self, who: str, status: str) -> None:
        """As it is."""
        self._phases.pop(who, None)
        self.line(who, status)

    def close(self) -> None:
        """Nothing more to say."""
        with self._lock:
            self._file.close()
