"""What a run tells whoever watches it: a progress display, a log, or nobody."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Called from several threads at once; must not block."""

    def progress(self, who: str, phase: str, done: float, total: float | None) -> None:
        """`who` (a target, or 'host') is at `done` of `total` in `phase`; total None = unknown."""

    def message(self, who: str, text: str) -> None:
        """One line worth keeping on the screen."""

    def log(self, who: str, line: str) -> None:
        """One line of a long text about `who`, such as a compile log; the report holds all of it."""

    def finished(self, who: str, status: str) -> None:
        """`who` is through."""


class Silent:
    """Nobody watches."""

    def progress(self, who: str, phase: str, done: float, total: float | None) -> None:
        """Ignore."""

    def message(self, who: str, text: str) -> None:
        """Ignore."""

    def log(self, who: str, line: str) -> None:
        """Ignore."""

    def finished(self, who: str, status: str) -> None:
        """Ignore."""
