"""What a board family offers: who the board is, and what its sensors say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from agents.protocol import agent_pb2 as pb

#: What `quantrig-agent telemetry --json` prints, in this order; part of the published command-line contract.
_JSON_KEYS = (
    "ram_used_mb",
    "ram_total_mb",
    "cpu_percent",
    "gpu_percent",
    "temperature_c",
    "power_mw",
    "total_power_mw",
    "total_power_rail",
    "throttled",
    "throttled_by",
    "clocks_mhz",
    "pressure_percent",
)


@dataclass(frozen=True)
class Identity:
    """Who the board is; fields as in BoardDescription of the protocol."""

    model: str
    hostname: str
    machine_id: str
    boot_id: str
    os: str
    architecture: str
    cpu_model: str
    cpu_count: int
    cpu_features: Sequence[str]
    memory_total_bytes: int
    memory_available_bytes: int
    #: What the family knows beyond that, by the names that docs/telemetry.md lists; what is unknown is missing.
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Telemetry:
    """One sample of the sensors. What the board cannot know is None or missing, never 0.

    `ram_used_mb` and `ram_total_mb` count 1,048,576 bytes, as `free -m` and tegrastats do.
    """

    unix_s: float
    ram_used_mb: float | None = None
    ram_total_mb: float | None = None
    cpu_percent: Sequence[float | None] = ()  # None = the core is off
    gpu_percent: float | None = None
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)  # instantaneous, by rail
    total_power_mw: float | None = None
    total_power_rail: str | None = None
    throttled: bool | None = None
    clock_mhz: float | None = None  # of the unit that runs the network
    throttled_by: Sequence[str] = ()  # one reason each; empty unless `throttled`
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)  # every clock the board tells
    pressure_percent: Mapping[str, float] = field(default_factory=dict)  # share of time that tasks stalled

    def to_json(self) -> str:
        """One line with exactly the keys that scripts in labs rely on."""
        fields = asdict(self)
        return json.dumps({key: fields[key] for key in _JSON_KEYS}, allow_nan=False)

    def to_text(self) -> str:
        """One line for people; what is unknown is left out."""
        parts = []
        if self.ram_used_mb is not None and self.ram_total_mb is not None:
            parts.append(f"RAM {self.ram_used_mb:.0f}/{self.ram_total_mb:.0f} MB")
        if self.cpu_percent:
            parts.append("CPU " + " ".join("off" if load is None else f"{load:.0f}%" for load in self.cpu_percent))
        if self.gpu_percent is not None:
            parts.append(f"GPU {self.gpu_percent:.0f}%")
        parts += [f"{name} {value:.1f} °C" for name, value in self.temperature_c.items()]
        parts += [f"{name} {value:.0f} mW" for name, value in self.power_mw.items()]
        if self.total_power_mw is not None:
            parts.append(f"total {self.total_power_mw:.0f} mW ({self.total_power_rail})")
        if self.throttled is not None:
            reasons = f" ({', '.join(self.throttled_by)})" if self.throttled_by else ""
            parts.append(f"throttled{reasons}" if self.throttled else "not throttled")
        return "  ".join(parts)

    def to_proto(self) -> pb.TelemetrySample:
        """The same as a message."""
        return pb.TelemetrySample(
            unix_s=self.unix_s,
            ram_used_mb=self.ram_used_mb,
            ram_total_mb=self.ram_total_mb,
            cpu=[pb.CpuLoad(percent=percent) for percent in self.cpu_percent],
            gpu_percent=self.gpu_percent,
            temperature_c=self.temperature_c,
            power_mw=self.power_mw,
            total_power_mw=self.total_power_mw,
            total_power_rail=self.total_power_rail,
            throttled=self.throttled,
            clock_mhz=self.clock_mhz,
            throttled_by=self.throttled_by,
            clocks_mhz=self.clocks_mhz,
            pressure_percent=self.pressure_percent,
        )


class Sampler(Protocol):
    """Reads the sensors again and again; loads and counters are of the time since the reading before.

    It has no thread of its own: whatever it does, it does inside `sample`, in the thread that asks.
    """

    def sample(self) -> Telemetry:
        """The sensors now."""

    def close(self) -> None:
        """End what the sampler started (a vendor's tool that prints readings); a later sample starts it again.

        What it counts from is kept: the next sample tells of the whole time since the one before.
        """


class Board(Protocol):
    """One family of boards."""

    #: as in targets.yaml
    kind: str

    def identity(self) -> Identity:
        """Who this board is."""

    def sampler(self, interval_s: float = 1.0) -> Sampler:
        """A new reader of the sensors, whose first loads count from now.

        Args:
            interval_s: how often it will be asked; a tool that prints by itself is told so.
        """
