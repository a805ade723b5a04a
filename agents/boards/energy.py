"""Energy counters of the processor (Linux powercap: RAPL of Intel and AMD), as mean power between two readings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.boards.sources import Sources, read_number, read_text

#: The one zone that covers the whole platform, where firmware offers it.
PLATFORM = "psys"


@dataclass(frozen=True)
class _Counter:
    name: str
    path: Path
    range_uj: float | None  # where it starts again at 0


class EnergyCounters:
    """The powercap zones that we may read (most kernels let only root do so).

    A counter starts again at 0 beyond `max_energy_range_uj`; of readings further apart than one round of it, which is
    about a minute at full load, the rounds in between are lost.

    Args:
        sources: of the machine.
        clock: seconds of any beginning.
    """

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters = _counters(sources)
        self._before = self._read()

    def power_mw(self) -> dict[str, float]:
        """Mean power of each zone since the last call, by name: "package-0", "package-0/core", "psys"."""
        before, self._before = self._before, self._read()
        found: dict[str, float] = {}
        for counter in self._counters:
            if counter.name in before and counter.name in self._before:
                (at_s, energy_uj), (before_s, before_uj) = self._before[counter.name], before[counter.name]
                used_uj = energy_uj - before_uj
                if used_uj < 0:
                    if counter.range_uj is None:
                        continue
                    used_uj += counter.range_uj
                if at_s > before_s and used_uj >= 0:
                    found[counter.name] = used_uj / 1e3 / (at_s - before_s)
        return found

    def _read(self) -> dict[str, tuple[float, float]]:
        found = {}
        for counter in self._counters:
            energy_uj = read_number(counter.path)
            if energy_uj is not None:
                found[counter.name] = (self._clock(), energy_uj)
        return found


def _counters(sources: Sources) -> list[_Counter]:
    """Zones of sysfs: intel-rapl:0 is a package, intel-rapl:0:1 a part of it. A package's MMIO twin is left out."""
    found = []
    for folder in sources.glob("sys/class/powercap/intel-rapl:*"):
        numbers = folder.name.split(":")[1:]
        name = read_text(folder / "name") or folder.name
        if len(numbers) > 1:
            parent = read_text(folder.with_name(f"intel-rapl:{numbers[0]}") / "name")
            name = f"{parent or numbers[0]}/{name}"
        found.append(_Counter(name, folder / "energy_uj", read_number(folder / "max_energy_range_uj")))
    return found
