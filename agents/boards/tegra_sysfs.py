"""A Jetson's GPU, over-current counters and power mode, from files of the kernel.

Paths and units: NVIDIA's Jetson Linux developer guide, "Power and performance", and the kernel's drivers named beside
each (soctherm, nvhost-podgov devfreq, ina3221).
"""

from __future__ import annotations

from pathlib import Path

from agents.boards.sources import Sources, read_number, read_text

#: Names of the GPU's device tree node, TX2 to Thor.
_GPU_NODES = frozenset({"gv11b", "gp10b", "gm20b", "ga10b", "gb10b", "gpu"})
#: What each counter of soctherm_oc counts.
_EVENTS = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}


class TegraGpu:
    """The GPU's devfreq device; None everywhere where there is none."""

    def __init__(self, sources: Sources) -> None:
        self._folder = gpu_folder(sources)

    def percent(self) -> float | None:
        """Load of now; per mille in sysfs."""
        value = read_number(self._folder / "device" / "load") if self._folder is not None else None
        return value / 10 if value is not None and 0 <= value <= 1000 else None

    def clock_mhz(self) -> float | None:
        """Clock of now; None while the GPU is switched off."""
        return self._mhz("cur_freq") or None

    def limits_mhz(self) -> tuple[float, float] | None:
        """Lowest and highest clock allowed now."""
        low, high = self._mhz("min_freq"), self._mhz("max_freq")
        return (low, high) if low is not None and high is not None else None

    def _mhz(self, name: str) -> float | None:
        value = read_number(self._folder / name) if self._folder is not None else None
        return value / 1e6 if value is not None else None


class OverCurrent:
    """The event counters of soctherm: each event slowed the chip down."""

    def __init__(self, sources: Sources) -> None:
        self._paths = [
            (int(digits), path)
            for path in sources.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")
            if read_text(path.with_name("name")) == "soctherm_oc"
            and (digits := path.name.removeprefix("oc").removesuffix("_event_cnt")).isdigit()
        ]
        self._before = self._read()

    def reasons(self) -> list[str] | None:
        """What happened since the last call; None where nothing counts."""
        before, now = self._before, self._read()
        self._before = {**before, **now}  # a counter that could not be read just now loses nothing
        if not self._before:
            return None
        return [
            f"{_EVENTS.get(number, f'over-current {number}')} ({int(count - before[number])} events)"
            for number, count in now.items()
            if number in before and count > before[number]
        ]

    def _read(self) -> dict[int, float]:
        return {number: count for number, path in self._paths if (count := read_number(path)) is not None}


class PowerLimits:
    """Whether the power mode or the range of a clock changed while the board was watched."""

    def __init__(self, sources: Sources, gpu: TegraGpu) -> None:
        self._status = sources.path("var/lib/nvpmodel/status")
        self._gpu = gpu
        self._before = (read_text(self._status), gpu.limits_mhz())

    def reasons(self) -> list[str]:
        """What changed since the last call."""
        (mode_before, gpu_before), self._before = self._before, (read_text(self._status), self._gpu.limits_mhz())
        mode, gpu = self._before
        reasons = ["the power mode changed since the last sample"] if mode != mode_before else []
        if gpu is not None and gpu_before is not None and gpu != gpu_before:
            reasons.append(f"the GPU's clock range changed from {_range(gpu_before)} to {_range(gpu)} MHz")
        return reasons


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def gpu_folder(sources: Sources) -> Path | None:
    """The GPU's devfreq device; None where there is none."""
    for folder in sources.glob("sys/class/devfreq/*"):
        if read_text(folder / "device" / "of_node" / "name") in _GPU_NODES or folder.name.startswith("gpu-gpc-"):
            return folder
    return None
