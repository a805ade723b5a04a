"""The CSV of `nvidia-smi --query-gpu=… --format=csv`, with or without units, and NVIDIA's clock reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.boards.parse.words import NUMBER
from agents.boards.sources import number_in

#: Reasons why a GPU's clock is what it is (nvml.h, nvmlClocksEventReason*): bit → name.
CLOCK_REASONS = {
    1: "GPU idle", 2: "applications clocks setting", 4: "software power cap", 8: "hardware slowdown",
    16: "sync boost", 32: "software thermal slowdown", 64: "hardware thermal slowdown",
    128: "hardware power brake slowdown", 256: "display clock setting", 512: "board limit", 1024: "reliability",
}  # fmt: skip
#: Those that spoil a measurement whatever the clock is; the power cap (4) does so only where the clock fell, which the
#: host sees in `clock_mhz`.
REJECTED = 8 | 32 | 64 | 128

#: What we ask for, newest spelling first where a field was renamed; the first spelling that the driver takes is kept.
QUERY = (
    "timestamp",
    "index",
    "name",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw.instant",
    "clocks.sm",
    "clocks.mem",
)
REASONS_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")

_VALUE = re.compile(rf"({NUMBER})\s*(%|W|MHz|MiB|C|mW)?")
_UNIT_IN_NAME = re.compile(r"\s*\[[^\]]*\]\s*$")


@dataclass(frozen=True)
class GpuReading:
    """One line of the CSV; None where the GPU does not say ("[N/A]", "[Not Supported]")."""

    index: int | None = None
    name: str | None = None
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_mw: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    reasons: int | None = None


def parse_header(line: str) -> tuple[str, ...] | None:
    """The fields' names of a CSV's first line, without units; None when the line is no such header."""
    names = tuple(_UNIT_IN_NAME.sub("", name.strip()) for name in _cells(line))
    known = {"utilization.gpu", "temperature.gpu", "power.draw", "power.draw.instant", "clocks.sm", "clocks.current.sm"}
    return names if known & set(names) else None


def parse_row(line: str, names: Sequence[str]) -> GpuReading | None:
    """One reading; None when the line has not as many cells as names, or none of them tells anything."""
    cells = _cells(line)
    if len(cells) != len(names):
        return None
    values = dict(zip(names, (cell.strip() for cell in cells), strict=True))
    index = number_in(values.get("index", ""))
    power_w = _number(values, "power.draw.instant", "power.draw")
    reading = GpuReading(
        index=int(index) if index is not None else None,
        name=values.get("name") or values.get("gpu_name"),
        utilization_percent=_number(values, "utilization.gpu"),
        temperature_c=_number(values, "temperature.gpu"),
        power_mw=power_w * 1e3 if power_w is not None else None,
        sm_clock_mhz=_number(values, "clocks.sm", "clocks.current.sm"),
        memory_clock_mhz=_number(values, "clocks.mem", "clocks.current.memory"),
        reasons=_reasons(values),
    )
    told = (reading.utilization_percent, reading.temperature_c, reading.power_mw, reading.sm_clock_mhz, reading.reasons)
    return reading if any(value is not None for value in told) else None


def throttle_reasons(bits: int) -> list[str]:
    """The names of those bits that spoil a measurement."""
    return [name for bit, name in CLOCK_REASONS.items() if bits & bit & REJECTED]


def _cells(line: str) -> list[str]:
    """nvidia-smi quotes nothing: no value has a comma of its own."""
    return line.split(",")


def _number(values: Mapping[str, str], *names: str) -> float | None:
    for name in names:
        if found := _VALUE.fullmatch(values.get(name, "")):
            return float(found[1])
    return None


def _reasons(values: Mapping[str, str]) -> int | None:
    """The mask, or the single reasons' "Active" and "Not Active"."""
    for name in REASONS_FIELDS:
        if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", values.get(name, "")):
            return int(values[name], 16)
    bits, told = 0, False
    for bit, suffix in _SINGLE.items():
        for family in ("clocks_event_reasons", "clocks_throttle_reasons"):
            said = values.get(f"{family}.{suffix}")
            told = told or said in ("Active", "Not Active")
            bits |= bit if said == "Active" else 0
    return bits if told else None


_SINGLE = {
    1: "gpu_idle", 2: "applications_clocks_setting", 4: "sw_power_cap", 8: "hw_slowdown", 16: "sync_boost",
    32: "sw_thermal_slowdown", 64: "hw_thermal_slowdown", 128: "hw_power_brake_slowdown",
}  # fmt: skip
