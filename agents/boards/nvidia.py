"""A machine with an NVIDIA GPU: NVML where its Python package is installed, else nvidia-smi as one long process."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agents.boards.base import Telemetry
from agents.boards.generic import GenericLinux, LinuxSampler
from agents.boards.lines import LineProcess
from agents.boards.nvml import Nvml
from agents.boards.parse.nvidia_smi import QUERY, REASONS_FIELDS, GpuReading, parse_header, parse_row
from agents.boards.smi_telemetry import telemetry_of
from agents.boards.sources import Sources

_LEAST_INTERVAL_MS = 100
#: However seldom a sample is taken, its line is no older.
_MOST_INTERVAL_MS = 1000
_STALE_INTERVALS = 3
#: The driver initializes a GPU without persistence mode in a second or two.
_FIRST_WAIT_S = 5.0
_INDEX = 0


class NvidiaGpu(GenericLinux):
    """The machine and its first GPU, or what stands in for one."""

    def sampler(self, interval_s: float = 1.0) -> NvidiaSampler:
        """See `agents.boards.base.Board.sampler`."""
        return NvidiaSampler(self._sources, interval_s)

    def details(self) -> Mapping[str, str]:
        """The GPU's name, driver and limits."""
        found = dict(super().details())
        if (library := _nvml(self._sources)) is not None:
            with contextlib.closing(library):
                return found | library.details()
        fields = ("name", "driver_version", "enforced.power.limit", "clocks.max.sm")
        said = self._sources.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", f"--id={_INDEX}"], 10.0
        )
        cells = [cell.strip() for cell in (said or "").strip().split(",")]
        if len(cells) == len(fields):
            names = ("gpu", "driver", "power_limit_w", "gpu_max_clock_mhz")
            found |= {name: cell for name, cell in zip(names, cells, strict=True) if not cell.startswith("[")}
        return found


class NvidiaSampler(LinuxSampler):
    """The sensors of the machine and of its first GPU.

    Args:
        sources: of the machine.
        interval_s: how often it will be asked.
    """

    def __init__(self, sources: Sources, interval_s: float = 1.0) -> None:
        self._library = _nvml(sources)
        self._has_library = self._library is not None
        self._interval_ms = round(min(max(interval_s * 1e3, _LEAST_INTERVAL_MS), _MOST_INTERVAL_MS))
        self._process: LineProcess | None = None
        self._names: tuple[str, ...] = ()
        self._last: GpuReading | None = None
        self._last_at_s = -math.inf
        self._tool = sources.tool("nvidia-smi") if self._library is None else None
        self._fields = list(REASONS_FIELDS)
        self._start()
        self._reading: GpuReading | None = None
        super().__init__(sources)

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        if self._has_library and self._library is None:
            self._library = _nvml(self._sources)
        self._reading = self._library.read() if self._library is not None else self._newest()
        linux = super().sample()
        if self._reading is None:
            return replace(linux, clock_mhz=None)
        told = telemetry_of(self._reading, linux.unix_s)
        return replace(
            linux,
            gpu_percent=told.gpu_percent,
            temperature_c={**linux.temperature_c, **told.temperature_c},
            power_mw={**linux.power_mw, **told.power_mw},
            total_power_mw=told.total_power_mw,
            total_power_rail=told.total_power_rail,
            clock_mhz=told.clock_mhz,
            clocks_mhz={**linux.clocks_mhz, **told.clocks_mhz},
        )

    def close(self) -> None:
        """End nvidia-smi, or let go of the library, until the next sample."""
        if self._process is not None:
            self._process.close()
            self._process = None
            self._last_at_s = -math.inf
        if self._library is not None:
            self._library.close()
            self._library = None

    def throttle_reasons(self) -> list[str] | None:
        """The GPU's verdict beside the kernel's."""
        linux = super().throttle_reasons()
        told = telemetry_of(self._reading, 0.0) if self._reading is not None else None
        if told is None or told.throttled is None:
            return linux
        return [*told.throttled_by, *(linux or [])]

    def _start(self) -> None:
        """With the spelling of the reasons that this driver takes: an unknown field ends nvidia-smi at once."""
        if self._process is not None or self._tool is None:
            return
        for field in self._fields:
            command = [str(self._tool), f"--query-gpu={','.join((*QUERY, field))}", "--format=csv", f"--id={_INDEX}"]
            try:
                process = LineProcess([*command, f"--loop-ms={self._interval_ms}"])
            except OSError:
                break
            self._names = ()
            for line in process.lines(_FIRST_WAIT_S):
                self._names = self._names or parse_header(line) or ()
                self._take(line)
            if self._names:
                self._process, self._fields = process, [field]
                return
            process.close()
        self._tool = None  # it answers nothing here: not asked again

    def _newest(self) -> GpuReading | None:
        self._start()
        if self._process is None:
            return None
        fresh = time.monotonic() - self._last_at_s < _STALE_INTERVALS * self._interval_ms / 1e3
        for line in self._process.lines(0.0 if fresh else min(2 * self._interval_ms / 1e3, _FIRST_WAIT_S)):
            self._take(line)
            fresh = fresh or self._last is not None
        return self._last if fresh else None

    def _take(self, line: str) -> None:
        if self._names and (reading := parse_row(line, self._names)) is not None:
            self._last, self._last_at_s = reading, time.monotonic()


def _nvml(sources: Sources) -> Nvml | None:
    """The library tells of this machine only, not of a tree below another root."""
    if sources.root != Path("/"):
        return None
    try:
        return Nvml(_INDEX)
    except OSError:
        return None
