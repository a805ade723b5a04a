"""NVIDIA Jetson: tegrastats as one long process, and the kernel's files for what it does not say."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace

from agents.boards.base import Telemetry
from agents.boards.generic import GenericLinux, LinuxSampler
from agents.boards.lines import LineProcess
from agents.boards.parse.jetson_tools import (
    jetpack_of,
    parse_jetson_clocks,
    parse_nvpmodel,
    parse_power_models,
    parse_release,
)
from agents.boards.parse.tegrastats import TegrastatsLine, parse_tegrastats
from agents.boards.sources import Sources
from agents.boards.tegra import telemetry_of, total_power
from agents.boards.tegra_rails import TegraRails
from agents.boards.tegra_sysfs import OverCurrent, PowerLimits, TegraGpu
from agents.boards.thermal import is_placeholder

#: tegrastats prints at most this often (NVIDIA's documentation allows less, at a load of its own).
_LEAST_INTERVAL_MS = 100
#: However seldom a sample is taken, its line is no older.
_MOST_INTERVAL_MS = 1000
#: A line older than so many intervals is none of now.
_STALE_INTERVALS = 3
#: The first line comes after the start and an interval; a tool that takes longer than this is given up.
_FIRST_WAIT_S = 2.0


class Jetson(GenericLinux):
    """One Jetson, or what stands in for one: a machine without its tools and files is read as generic Linux."""

    def sampler(self, interval_s: float = 1.0) -> JetsonSampler:
        """See `agents.boards.base.Board.sampler`."""
        return JetsonSampler(self._sources, interval_s)

    def details(self) -> Mapping[str, str]:
        """L4T and JetPack, the power mode, and whether the clocks are locked."""
        found = dict(super().details())
        l4t = parse_release(self._sources.text("etc/nv_tegra_release"))
        if l4t is not None:
            found["l4t"] = l4t
            if (jetpack := jetpack_of(l4t)) is not None:
                found["jetpack"] = jetpack
        found |= self._power_mode()
        locked = self._clocks_locked()
        if locked is not None:
            found["clocks_locked"] = "yes" if locked else "no"
        return found

    def _power_mode(self) -> dict[str, str]:
        mode = parse_nvpmodel(self._sources.run(["nvpmodel", "-q"]) or "")
        known = parse_power_models(self._sources.text("etc/nvpmodel.conf"))
        name = mode.name or (known.get(mode.number) if mode.number is not None else None)
        found = {"power_mode": name} if name is not None else {}
        if mode.number is not None:
            found["power_mode_id"] = str(mode.number)
        if known:
            found["power_modes"] = ", ".join(known.values())
        return found

    def _clocks_locked(self) -> bool | None:
        """Of the kernel's files; where they are silent, of `jetson_clocks --show` (needs root, takes a second)."""
        limits = TegraGpu(self._sources).limits_mhz()
        cores = self.cpu_clocks_locked()
        if cores is not None:
            return cores and (limits is None or limits[0] == limits[1])
        shown = parse_jetson_clocks(self._sources.run(["jetson_clocks", "--show"], timeout_s=10.0) or "")
        return shown.locked if shown is not None else None


class JetsonSampler(LinuxSampler):
    """The sensors of a Jetson; what neither tegrastats nor the kernel tells is unknown.

    Args:
        sources: of the board.
        interval_s: how often it will be asked.
    """

    def __init__(self, sources: Sources, interval_s: float = 1.0) -> None:
        super().__init__(sources)
        self._gpu = TegraGpu(sources)
        self._over_current = OverCurrent(sources)
        self._power_limits = PowerLimits(sources, self._gpu)
        self._rails = TegraRails(sources)
        self._told = Telemetry(0.0)
        self._line: TegrastatsLine | None = None
        self._line_at_s = -math.inf
        self._interval_s = min(max(interval_s * 1e3, _LEAST_INTERVAL_MS), _MOST_INTERVAL_MS) / 1e3
        self._tegrastats: LineProcess | None = None
        self._tool = sources.tool("tegrastats")
        self._start()

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        line = self._newest_line()
        self._told = told = telemetry_of(line, 0.0) if line is not None else Telemetry(0.0)
        linux = super().sample()
        total_mw, rail = total_power(linux.power_mw)
        gpu_mhz = self._gpu.clock_mhz() or told.clock_mhz
        clocks = {**linux.clocks_mhz, **told.clocks_mhz, **({"gpu": gpu_mhz} if gpu_mhz is not None else {})}
        return replace(
            linux,
            ram_used_mb=told.ram_used_mb if told.ram_used_mb is not None else linux.ram_used_mb,
            ram_total_mb=told.ram_total_mb if told.ram_total_mb is not None else linux.ram_total_mb,
            cpu_percent=told.cpu_percent or linux.cpu_percent,
            gpu_percent=told.gpu_percent if told.gpu_percent is not None else self._gpu.percent(),
            total_power_mw=total_mw,
            total_power_rail=rail,
            clock_mhz=gpu_mhz,
            clocks_mhz=clocks,
        )

    def close(self) -> None:
        """End tegrastats, until the next sample."""
        if self._tegrastats is not None:
            self._tegrastats.close()
            self._tegrastats = None
            self._line_at_s = -math.inf

    def _start(self) -> None:
        if self._tegrastats is None and self._tool is not None:
            with contextlib.suppress(OSError):
                self._tegrastats = LineProcess([str(self._tool), "--interval", str(round(self._interval_s * 1e3))])

    def temperature_c(self) -> Mapping[str, float]:
        """Of tegrastats, else of the kernel: a sensor behind I2C is not asked twice."""
        zones = {name: value for name, value in self._told.temperature_c.items() if not is_placeholder(name)}
        return zones or super().temperature_c()

    def power_mw(self) -> Mapping[str, float]:
        """Of tegrastats, else of the monitors, else of whatever the kernel shows."""
        return self._told.power_mw or self._rails.power_mw() or super().power_mw()

    def throttle_reasons(self) -> list[str] | None:
        """The kernel's reasons, over-current events, and changes of the power mode or the GPU's clock range."""
        linux, events = super().throttle_reasons(), self._over_current.reasons()
        limits = self._power_limits.reasons()
        if linux is None and events is None and not limits:
            return None
        return [*(linux or []), *(events or []), *limits]

    def _newest_line(self) -> TegrastatsLine | None:
        """The last line that tegrastats printed; the one before while it is fresh; None when it prints none."""
        self._start()
        if self._tegrastats is None:
            return None
        age_s = time.monotonic() - self._line_at_s
        if age_s < _STALE_INTERVALS * self._interval_s:
            wait_s = 0.0
        else:
            wait_s = _FIRST_WAIT_S if age_s == math.inf else 2 * self._interval_s
        for text in reversed(self._tegrastats.lines(wait_s)):
            if (line := parse_tegrastats(text)) is not None:
                self._line, self._line_at_s = line, time.monotonic()
                return line
        if wait_s == 0.0:
            return self._line
        if age_s == math.inf:
            # It starts and says nothing: no later sample waits for it again.
            self.close()
            self._tool = None
        return None
