"""Recorded readings of hwmon: `sensors`, and listings of sysfs files with their values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agents.boards.parse.words import NUMBER

#: "/sys/class/hwmon/hwmon0/power1_input -> 3100000", also ":", "=" or blanks between (grep, cat in a loop).
_FILE = re.compile(r"\S*?(hwmon\w+)/(name|(?:in|curr|power|temp)\d+_(?:input|label))\s*(?:->|:|=|\s)\s*(.*?)\s*")
_CHIP = re.compile(r"[\w.]+(?:-[\w.]+)*-(?:i2c|isa|virtual|pci|acpi|mdio|hid|spi)-[\w-]+")
_SENSOR = re.compile(rf"([^:]+):\s+({NUMBER})\s*(°?C|mW|W|uW|µW|mV|V|mA|A)(?:\s.*)?")
#: Units of `sensors` → kind and factor to °C, mW, mV, mA.
_UNITS = {
    "C": ("temp", 1.0), "°C": ("temp", 1.0), "W": ("power", 1e3), "mW": ("power", 1.0), "uW": ("power", 1e-3),
    "µW": ("power", 1e-3), "V": ("in", 1e3), "mV": ("in", 1.0), "A": ("curr", 1e3), "mA": ("curr", 1.0),
}  # fmt: skip
#: Units of sysfs (Documentation/hwmon/sysfs-interface): m°C, µW, mV, mA.
_SYSFS = {"temp": 1e-3, "power": 1e-3, "in": 1.0, "curr": 1.0}


@dataclass(frozen=True)
class HwmonLine:
    """One line of a recording.

    Attributes:
        chip: "hwmon0", or the chip's name of `sensors`; "" when the line does not say.
        kind: "name", "chip", "temp", "power", "in" or "curr".
        channel: "power1"; the label of `sensors`.
        value: °C, mW, mV or mA; None for a name or a label.
        text: the name or the label.
    """

    chip: str
    kind: str
    channel: str = ""
    value: float | None = None
    text: str = ""


def parse_line(line: str) -> HwmonLine | None:
    """One line; None when it is none of hwmon."""
    stripped = line.strip()
    if found := _FILE.fullmatch(stripped):
        return _file(found[1], found[2], found[3])
    if _CHIP.fullmatch(stripped):
        return HwmonLine(stripped, "chip", text=stripped)
    if found := _SENSOR.fullmatch(stripped):
        kind, factor = _UNITS[found[3]]
        return HwmonLine("", kind, found[1].strip(), float(found[2]) * factor)
    return None


def is_adapter(line: str) -> bool:
    """The line of `sensors` that says what bus a chip is on."""
    return line.startswith("Adapter:")


def rails_of(lines: Iterable[HwmonLine]) -> tuple[dict[str, float], dict[str, float]]:
    """Temperatures (°C) and powers (mW) of one moment, by "chip/label".

    A chip that tells voltage and current of a channel but no power gets their product.
    """
    names: dict[str, str] = {}
    labels: dict[tuple[str, str], str] = {}
    values: dict[tuple[str, str], float] = {}
    chip = ""
    for line in lines:
        if line.kind == "chip":
            chip = line.text
            names[chip] = _short(line.text)
            continue
        at = line.chip or chip
        if line.kind == "name":
            names[at] = line.text
        elif line.value is None:
            labels[at, line.channel] = line.text
        else:
            values[at, line.channel if line.chip else f"{line.kind}:{line.channel}"] = line.value
    temperatures: dict[str, float] = {}
    powers: dict[str, float] = {}
    for (at, channel), value in values.items():
        kind, _, label = channel.rpartition(":")
        kind = kind or re.sub(r"\d+$", "", channel)
        shown = f"{names.get(at, at)}/{labels.get((at, channel), label or channel)}"
        if kind == "temp":
            temperatures[shown] = value
        elif kind == "power":
            powers[shown] = value
        elif kind == "in" and not any(k.startswith("power") for a, k in values if a == at):
            number = re.sub(r"^\D+", "", label or channel)
            current = values.get((at, f"curr{number}"), values.get((at, f"curr:curr{number}")))
            if current is not None:
                name = labels.get((at, channel), f"power{number}")
                powers[f"{names.get(at, at)}/{name}"] = value * current / 1e3
    return temperatures, powers


def _file(chip: str, name: str, value: str) -> HwmonLine | None:
    if name == "name":
        return HwmonLine(chip, "name", text=value)
    channel, _, what = name.rpartition("_")
    kind = channel.rstrip("0123456789")
    if what == "label":
        return HwmonLine(chip, kind, channel, text=value)
    if not re.fullmatch(NUMBER, value):
        return None
    return HwmonLine(chip, kind, channel, float(value) * _SYSFS[kind])


def _short(chip: str) -> str:
    """The chip without its bus: ina260_u14 of ina260_u14-i2c-1-40."""
    return re.split(r"-(?:i2c|isa|virtual|pci|acpi|mdio|hid|spi)-", chip)[0]
