"""Sensors of hwmon and of industrial I/O, by the names of their chips: indices change from boot to boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.boards.sources import Sources, add_reading, read_number, read_text

#: A channel of a power monitor that is wired to nothing, and the sum of shunt voltages that the ina3221 driver adds.
_NO_RAILS = frozenset({"NC", "sum of shunt voltages"})


@dataclass(frozen=True)
class _Rail:
    """One rail: a power in µW, or a voltage in mV and a current in mA."""

    name: str
    power: Path | None
    voltage: Path | None = None
    current: Path | None = None

    def power_mw(self) -> float | None:
        if self.power is not None:
            value = read_number(self.power)
            return value / 1e3 if value is not None else None
        voltage = read_number(self.voltage) if self.voltage is not None else None
        current = read_number(self.current) if self.current is not None else None
        return voltage * current / 1e3 if voltage is not None and current is not None else None


class HwmonSensors:
    """Temperatures and rails of every chip that is there when it is made."""

    def __init__(self, sources: Sources) -> None:
        self._temperatures: list[tuple[str, Path]] = []
        self._rails: list[_Rail] = []
        for folder in sources.glob("sys/class/hwmon/hwmon*"):
            chip = read_text(folder / "name") or folder.name
            self._temperatures += [(_label(chip, path, "_input"), path) for path in sorted(folder.glob("temp*_input"))]
            self._rails += _rails(chip, folder)

    def temperatures(self) -> dict[str, float]:
        """By "chip/label", °C; thousandths of a degree in sysfs."""
        found: dict[str, float] = {}
        for name, path in self._temperatures:
            add_reading(found, name, read_number(path), 1e-3)
        return found

    def power_mw(self) -> dict[str, float]:
        """By "chip/label", of now; the driver's averages (`power*_average`) are not read."""
        found: dict[str, float] = {}
        for rail in self._rails:
            add_reading(found, rail.name, rail.power_mw())
        return found


class IioTemperatures:
    """Temperatures of the analog-to-digital converters in a Xilinx chip: (raw + offset) x scale, thousandths of °C."""

    def __init__(self, sources: Sources) -> None:
        self._channels = [
            (path.name.removeprefix("in_").removesuffix("_raw"), path)
            for path in sources.glob("sys/bus/iio/devices/iio:device*/in_temp*_raw")
        ]

    def temperatures(self) -> dict[str, float]:
        """By channel ("temp0_ps_temp"), °C."""
        found: dict[str, float] = {}
        for name, path in self._channels:
            stem = path.name.removesuffix("raw")
            raw, scale = read_number(path), read_number(path.with_name(f"{stem}scale"))
            offset = read_number(path.with_name(f"{stem}offset")) or 0.0
            if raw is not None and scale is not None:
                add_reading(found, name, (raw + offset) * scale, 1e-3)
        return found


def _rails(chip: str, folder: Path) -> list[_Rail]:
    """A chip's powers; of a chip that measures none (ina3221) voltage times current of each labelled channel."""
    powers = sorted(folder.glob("power*_input"))
    if powers:
        return [_Rail(_label(chip, path, "_input"), path) for path in powers]
    rails = []
    for current in sorted(folder.glob("curr*_input")):
        number = current.name.removeprefix("curr").removesuffix("_input")
        voltage = folder / f"in{number}_input"
        label = read_text(folder / f"in{number}_label") or read_text(folder / f"curr{number}_label")
        if label in _NO_RAILS or not voltage.exists():
            continue
        rails.append(_Rail(f"{chip}/{label or f'power{number}'}", None, voltage, current))
    return rails


def _label(chip: str, sensor: Path, suffix: str) -> str:
    stem = sensor.name.removesuffix(suffix)
    return f"{chip}/{read_text(sensor.with_name(f'{stem}_label')) or stem}"
