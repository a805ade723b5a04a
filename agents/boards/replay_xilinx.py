"""Recordings of a Xilinx board: platformstats, xdputil's JSON, hwmon, in any order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agents.boards.base import Telemetry
from agents.boards.parse import hwmon, platformstats
from agents.boards.parse.xdputil import parse_show_dpu, parse_xdputil
from agents.boards.som import som_total

#: A longer JSON is no answer of xdputil.
_MAX_JSON_LINES = 2000
#: glog's prefix: severity and date, then time, thread and file.
_LOG = re.compile(r"[IWEF]\d{4} [\d:.]+\s+\d+ \S+\]|WARNING: Logging before InitGoogleLogging")
_NO_TIME_S = 0.0


class XilinxRecording:
    """A sample ends where a reading is told a second time; a DPU's clock stays until another is told."""

    def __init__(self) -> None:
        self._stats: list[str] = []
        self._sensors: list[hwmon.HwmonLine] = []
        self._seen: set[str] = set()
        self._json: list[str] = []
        self._depth = 0
        self._chip = ""
        self._dpu_mhz: float | None = None
        self._dpu_told = False

    def take(self, line: str) -> Iterator[Telemetry] | None:
        """See `agents.boards.replay.Recording`."""
        if self._depth or line.lstrip().startswith("{"):
            return self._take_json(line)
        if _LOG.match(line) or hwmon.is_adapter(line):
            return iter(())
        if platformstats.is_heading(line):
            self._chip = ""  # what follows is no more of `sensors`, whose lines look alike
            return iter(())
        if parse_show_dpu(line) is not None:
            return iter(())
        name = platformstats.reading_name(line) if not self._chip else None
        if name is not None:
            done = self._told(name)
            self._stats.append(line)
            return done
        sensor = hwmon.parse_line(line)
        if sensor is None:
            return None
        self._chip = sensor.text if sensor.kind == "chip" else self._chip
        done = self._told(f"{sensor.chip or self._chip}/{sensor.kind}/{sensor.channel}/{sensor.value is None}")
        self._sensors.append(sensor)
        return done

    def finish(self) -> Iterator[Telemetry]:
        """See `agents.boards.replay.Recording`."""
        told = any(sensor.value is not None for sensor in self._sensors)
        if self._stats or told or self._dpu_told:
            sample = self._sample()
            self._stats, self._dpu_told = [], False
            # Names and labels of sysfs are told once and hold on; `sensors` repeats its chips.
            self._sensors = [sensor for sensor in self._sensors if sensor.value is None and sensor.kind != "chip"]
            self._seen.clear()
            return iter([sample])
        return iter(())

    def _told(self, name: str) -> Iterator[Telemetry]:
        """The open sample, when it has that reading already."""
        done = self.finish() if name in self._seen else iter(())
        self._seen.add(name)
        return done

    def _take_json(self, line: str) -> Iterator[Telemetry]:
        """Lines of a JSON object, until its braces are even."""
        self._json.append(line)
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
        self._depth += bare.count("{") - bare.count("}")
        if self._depth > 0 and len(self._json) < _MAX_JSON_LINES:
            return iter(())
        query = parse_xdputil("\n".join(self._json))
        self._json, self._depth = [], 0
        clocks = [core.clock_mhz for core in query.cores if core.clock_mhz is not None] if query is not None else []
        if not clocks:
            return iter(())
        done = self._told("dpu clock")
        self._dpu_mhz, self._dpu_told = clocks[0], True
        return done

    def _sample(self) -> Telemetry:
        stats = platformstats.parse_platformstats("\n".join(self._stats))
        temperatures, powers = hwmon.rails_of(self._sensors)
        memory = stats.memory_kb
        total_kb, available_kb = memory.get("MemTotal"), memory.get("MemAvailable")
        power = {**powers, **stats.power_mw}
        total_mw, rail = som_total(power)
        cores = range(max(stats.cpu_percent, default=-1) + 1)
        cpu_mhz = list(stats.cpu_mhz.values())
        clocks = {"cpu": sum(cpu_mhz) / len(cpu_mhz)} if cpu_mhz else {}
        if self._dpu_mhz is not None:
            clocks["dpu"] = self._dpu_mhz
        return Telemetry(
            unix_s=_NO_TIME_S,
            ram_used_mb=(total_kb - available_kb) / 1024 if total_kb is not None and available_kb is not None else None,
            ram_total_mb=total_kb / 1024 if total_kb is not None else None,
            cpu_percent=[stats.cpu_percent.get(core) for core in cores],
            temperature_c={**temperatures, **stats.temperature_c},
            power_mw=power,
            total_power_mw=total_mw,
            total_power_rail=rail,
            clock_mhz=clocks.get("dpu", clocks.get("cpu")),
            clocks_mhz=clocks,
        )
