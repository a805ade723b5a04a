"""Power rails of a Jetson's INA3221 monitors, as JetPack 5 and later (hwmon) and JetPack 4 (iio) show them."""

from __future__ import annotations

from pathlib import Path

from agents.boards.sources import Sources, add_reading, read_number, read_text

#: A channel that is wired to nothing; channel 7 of the driver is the sum of shunt voltages and no rail.
_NOT_CONNECTED = "NC"
_CHANNELS = range(1, 4)


class TegraRails:
    """The monitors that are there when it is made. Every read asks the chip over I2C, about a millisecond a rail."""

    def __init__(self, sources: Sources) -> None:
        self._products: list[tuple[str, Path, Path]] = []
        self._powers: list[tuple[str, Path]] = []
        for device in sources.glob("sys/bus/i2c/devices/*"):
            if "ina3221" not in read_text(device / "name"):
                continue
            for folder in sorted(device.glob("hwmon/hwmon*")):
                for channel in _CHANNELS:
                    voltage, current = folder / f"in{channel}_input", folder / f"curr{channel}_input"
                    label = read_text(folder / f"in{channel}_label")
                    if label and label != _NOT_CONNECTED and voltage.exists() and current.exists():
                        self._products.append((label, voltage, current))
            for path in sorted(device.glob("iio:device*/in_power*_input")):
                number = path.name.removeprefix("in_power").removesuffix("_input")
                label = read_text(path.with_name(f"rail_name_{number}"))
                if label and label != _NOT_CONNECTED:
                    self._powers.append((label, path))

    def power_mw(self) -> dict[str, float]:
        """By rail, of now: millivolts times milliamperes, or the driver's own milliwatts."""
        found: dict[str, float] = {}
        for label, voltage, current in self._products:
            millivolts, milliamperes = read_number(voltage), read_number(current)
            if millivolts is not None and milliamperes is not None:
                add_reading(found, label, millivolts * milliamperes / 1e3)
        for label, path in self._powers:
            add_reading(found, label, read_number(path))
        return found
