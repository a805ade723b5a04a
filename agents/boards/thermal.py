"""Thermal zones of the kernel: temperatures, and how far each is from the trip that slows the board down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.boards.sources import Sources, add_reading, read_number, read_text

#: A pair of blocks is rejected when a zone comes this near to its trip (docs/telemetry.md).
MARGIN_C = 3.0
#: Trips that slow the processor down or end the work; "active" ones only start a fan.
_TRIP_TYPES = frozenset({"passive", "hot", "critical"})
#: Firmware leaves trips at 0 or below that nobody set; none that is real is cooler than this.
_LEAST_TRIP_C = 45.0
#: A switched-off sensor reads -256 °C.
_LEAST_C = -100.0
#: Zones that are no measurement: a Jetson's power chip always says 50 or 100 °C.
_PLACEHOLDERS = ("PMIC",)


@dataclass(frozen=True)
class _Trip:
    kind: str
    at_c: float


class ThermalZones:
    """The zones of one board; trips are read once, temperatures again and again."""

    def __init__(self, sources: Sources) -> None:
        self._zones = [
            (folder, read_text(folder / "type") or folder.name, _lowest_trip(folder))
            for folder in sources.glob("sys/class/thermal/thermal_zone*")
        ]
        self._zones = [zone for zone in self._zones if not is_placeholder(zone[1])]

    @property
    def has_trips(self) -> bool:
        """Whether any zone says when it would slow the board down."""
        return any(trip is not None for _, _, trip in self._zones)

    def temperatures(self) -> dict[str, float]:
        """By the zone's type, °C."""
        found: dict[str, float] = {}
        for folder, name, _ in self._zones:
            add_reading(found, name, _temperature(folder))
        return found

    def near_trips(self) -> list[str]:
        """One sentence for each zone within `MARGIN_C` of its trip, or beyond."""
        reasons = []
        for folder, name, trip in self._zones:
            value = _temperature(folder) if trip is not None else None
            if trip is not None and value is not None and value > trip.at_c - MARGIN_C:
                reasons.append(f"{name} at {value:.1f} °C, its {trip.kind} trip is {trip.at_c:g} °C")
        return reasons


def is_placeholder(zone: str) -> bool:
    """Whether a zone of that name measures nothing."""
    return zone.startswith(_PLACEHOLDERS)


def _temperature(folder: Path) -> float | None:
    """Thousandths of a degree in sysfs."""
    value = read_number(folder / "temp")
    return value / 1e3 if value is not None and value / 1e3 > _LEAST_C else None


def _lowest_trip(folder: Path) -> _Trip | None:
    trips = []
    for path in sorted(folder.glob("trip_point_*_type")):
        kind = read_text(path)
        value = read_number(path.with_name(path.name.removesuffix("type") + "temp"))
        if kind in _TRIP_TYPES and value is not None and value / 1e3 >= _LEAST_TRIP_C:
            trips.append(_Trip(kind, value / 1e3))
    return min(trips, key=lambda trip: trip.at_c, default=None)
