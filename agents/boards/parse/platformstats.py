"""What `xmutil platformstats` (also `xlnx_platformstats`) prints on a Zynq UltraScale+ board."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.boards.parse.words import NUMBER

_READING = re.compile(rf"\s*(\S.*?)\s*:\s*({NUMBER})\s*(%|kB|MHz|mW|mA|mV|C)\s*")
#: Headings of the sections; a core's load and its clock are both called "CPU0".
_SECTIONS = (
    *("CPU Utilization", "RAM Utilization", "Swap Mem Utilization", "Power Utilization", "AMS CTRL", "PS Sysmon"),
    *("PL Sysmon", "CMA Mem Utilization", "CPU Frequency"),
)
#: The one power that platformstats calls a total: what enters the SOM (K26), the carrier board not included.
TOTAL = "SOM total power"


@dataclass(frozen=True)
class PlatformStats:
    """One printing; what it lacks is missing.

    Attributes:
        cpu_percent: by core.
        memory_kb: MemTotal, MemFree, MemAvailable, SwapTotal, …
        power_mw: by name ("SOM total power").
        voltage_mv: by name.
        current_ma: by name.
        temperature_c: by name, without the words "temperature measurement".
        cpu_mhz: by core.
    """

    cpu_percent: Mapping[int, float] = field(default_factory=dict)
    memory_kb: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    voltage_mv: Mapping[str, float] = field(default_factory=dict)
    current_ma: Mapping[str, float] = field(default_factory=dict)
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    cpu_mhz: Mapping[int, float] = field(default_factory=dict)


def is_heading(line: str) -> bool:
    """Whether the line is a section's heading."""
    return line.strip() in _SECTIONS


def is_reading(line: str) -> bool:
    """Whether the line is a reading."""
    return _READING.fullmatch(line) is not None


def reading_name(line: str) -> str | None:
    """What tells a reading from the others of one printing; None for other lines."""
    found = _READING.fullmatch(line)
    return f"{found[1]} {found[3]}" if found else None


def parse_platformstats(text: str) -> PlatformStats:
    """One printing; lines that say nothing are skipped."""
    tables: dict[str, dict[str, float]] = {unit: {} for unit in ("%", "kB", "MHz", "mW", "mA", "mV", "C")}
    for line in text.splitlines():
        if found := _READING.fullmatch(line):
            tables[found[3]][found[1]] = float(found[2])
    return PlatformStats(
        cpu_percent=_by_core(tables["%"]),
        memory_kb=tables["kB"],
        power_mw=tables["mW"],
        voltage_mv=tables["mV"],
        current_ma=tables["mA"],
        temperature_c={_zone(name): value for name, value in tables["C"].items()},
        cpu_mhz=_by_core(tables["MHz"]),
    )


def _by_core(table: Mapping[str, float]) -> dict[int, float]:
    return {int(name[3:]): value for name, value in table.items() if re.fullmatch(r"CPU\d+", name)}


def _zone(name: str) -> str:
    """The zone alone: LPD of "LPD temperature measurement", FPD (REMOTE) of "FPD temperature measurement (REMOTE)"."""
    return re.sub(r"\s*temperature(?:\s+measurement)?", "", name).strip() or name
