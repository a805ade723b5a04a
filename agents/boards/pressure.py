"""Pressure stall information: the share of time in which tasks waited for a processor, memory or a disk."""

from __future__ import annotations

import re
import time

from agents.boards.sources import Sources

_RESOURCES = ("cpu", "io", "memory")
_SOME = re.compile(r"^some\s.*\btotal=(\d+)", re.MULTILINE)


class Pressure:
    """/proc/pressure; empty where the kernel has none (CONFIG_PSI, psi=1)."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._before = self._read()

    def percent(self) -> dict[str, float]:
        """Share of the time since the last call in which at least one task waited, by resource."""
        before, self._before = self._before, self._read()
        found = {}
        for name, (at_s, stalled_us) in self._before.items():
            if name in before and at_s > before[name][0]:
                share = (stalled_us - before[name][1]) / 1e4 / (at_s - before[name][0])
                found[name] = round(min(max(share, 0.0), 100.0), 2)
        return found

    def _read(self) -> dict[str, tuple[float, int]]:
        """Microseconds stalled since the boot, with the moment of reading."""
        found = {}
        for name in _RESOURCES:
            if some := _SOME.search(self._sources.text(f"proc/pressure/{name}")):
                found[name] = (time.monotonic(), int(some[1]))
        return found
