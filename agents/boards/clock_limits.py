"""Whether the kernel holds the cores below the clock they were allowed when the watch began."""

from __future__ import annotations

from pathlib import Path

from agents.boards.sources import Sources, read_number


class ClockLimits:
    """cpufreq's upper limit of each policy: thermal cooling and firmware lower it, and raise it again."""

    def __init__(self, sources: Sources) -> None:
        # The cores of a cluster share a policy: its files are links to one.
        paths = {path.resolve(): path for path in sources.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq")}
        self._first: list[tuple[str, Path, float]] = [
            (path.parent.parent.name, path, limit)
            for path in sorted(paths.values())
            if (limit := read_number(path)) is not None
        ]

    def reasons(self) -> list[str]:
        """One sentence for each policy whose limit is lower now than at first (kHz in sysfs)."""
        return [
            f"{core}'s clock is held to {limit / 1e3:g} MHz, below {first / 1e3:g} MHz"
            for core, path, first in self._first
            if (limit := read_number(path)) is not None and limit < first
        ]
