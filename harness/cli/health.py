"""`quantrig targets check` on a terminal: one line a target, as soon as it is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from harness.targets.health import TargetHealth

_UNKNOWN = "-"
_HEADS = ("fit", "agent", "clocks", "mode", "temp", "memory", "disk", "int8")
_WIDTHS = (3, 7, 8, 10, 6, 8, 8, 9)
_GAP = "  "


class HealthLines:
    """Prints a line for each target as its answer comes, and says meanwhile who has not answered yet.

    Args:
        names: of the targets asked.
        out: where the lines go.
        progress: where is said who is waited for; a terminal, else nothing is said.
    """

    def __init__(self, names: Sequence[str], out: Console, progress: Console) -> None:
        self._width = max((len(name) for name in (*names, "target")), default=0)
        self._out = out
        self._progress = progress
        self._waiting = dict.fromkeys(names)
        self._guard = threading.Lock()
        self._began = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Print the head, and keep the waiting line for as long as the block runs."""
        heads = [*(head.ljust(width) for head, width in zip(_HEADS, _WIDTHS, strict=True)), "runtime"]
        self._line(_GAP.join(["target".ljust(self._width), *heads]), "bold")
        if not self._progress.is_terminal:
            yield
            return
        with self._progress.status("") as status:
            over = threading.Event()

            def tell() -> None:
                while not over.wait(0.25):
                    status.update(Text(self._sentence()))

            teller = threading.Thread(target=tell, name="waiting", daemon=True)
            teller.start()
            try:
                yield
            finally:
                over.set()
                teller.join()

    def add(self, health: TargetHealth) -> None:
        """Print one target's line; from any thread."""
        with self._guard:
            self._waiting.pop(health.name, None)
            self._line(health_line(health, self._width), "" if health.fit else "red")

    def _sentence(self) -> str:
        with self._guard:
            names = list(self._waiting)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"waiting for {', '.join(names[:4])}{more} ({time.monotonic() - self._began:.0f} s)"

    def _line(self, text: str, style: str) -> None:
        # Soft: a pipe, and a narrow terminal, get one line a target all the same.
        self._out.print(Text(text.rstrip(), style=style), soft_wrap=True)


def health_line(one: TargetHealth, width: int = 0) -> str:
    """One target in one line; where it is not fit the reason and the remedy stand at its end.

    Args:
        one: what is known.
        width: of the names.
    """
    name = one.name.ljust(width)
    if not one.reachable:
        return _GAP.join((name, "no ", one.problem or "not reached"))
    cells = (
        "yes" if one.fit else "no",
        one.agent_version or _UNKNOWN,
        {True: "locked", False: "free", None: "unknown"}[one.clocks_locked],
        one.power_mode or one.governor or _UNKNOWN,
        _UNKNOWN if one.temperature_c is None else f"{one.temperature_c:.0f} °C",
        _gib(one.memory_available_bytes),
        _gib(one.storage_free_bytes),
        one.canary or _UNKNOWN,
    )
    padded = [cell.ljust(size) for cell, size in zip(cells, _WIDTHS, strict=True)]
    line = _GAP.join((name, *padded, _runtime(one)))
    return line if one.problem is None else f"{line}{_GAP}NOT FIT: {one.problem}"


def remarks(found: Sequence[TargetHealth]) -> list[str]:
    """What a run will survive, a line each; printed beneath the targets."""
    return [f"{one.name}: {text}" for one in found for text in (*one.warnings, *one.remarks)]


def _runtime(one: TargetHealth) -> str:
    if one.runtime is None:
        return _UNKNOWN
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in one.providers)
    return f"{one.runtime} ({providers})" if providers else one.runtime


def _gib(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
