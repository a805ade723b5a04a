"""Any Linux machine: what procfs and sysfs say of it."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from pathlib import Path

from agents.boards.base import Identity, Telemetry

_MEBIBYTE = 1 << 20

#: Processor flags that change what int8 networks compute or how fast: x86 names, then those of Arm, of /proc/cpuinfo.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx_vnni_int8"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "sme", "neon"),
)


class GenericLinux:
    """A Linux machine without a family of its own.

    Args:
        kind: the name it goes by.
        root: where procfs, sysfs and /etc are found; another tree than "/" holds what a board said once.
    """

    def __init__(self, kind: str = "generic", root: Path = Path("/")) -> None:
        self.kind = kind
        self._root = root

    def identity(self) -> Identity:
        """See `agents.boards.base.Board.identity`."""
        cpu = _cpu_info(self._read("proc/cpuinfo"))
        flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
        memory = _memory(self._read("proc/meminfo"))
        boot_id = self._read("proc/sys/kernel/random/boot_id")
        hostname = socket.gethostname()
        # The machine's own id, hashed: equal for all agents on it, and of no use to anyone else.
        own_id = self._read("etc/machine-id") or self._read("var/lib/dbus/machine-id") or f"{hostname} {boot_id}"
        return Identity(
            model=self._model(),
            hostname=hostname,
            machine_id=hashlib.sha256(own_id.encode()).hexdigest(),
            boot_id=boot_id,
            os=f"{_pretty_name(self._read('etc/os-release'))}, Linux {platform.release()}",
            architecture=platform.machine(),
            cpu_model=cpu.get("model name") or cpu.get("Model") or cpu.get("Hardware") or platform.processor(),
            cpu_count=len(os.sched_getaffinity(0)),
            cpu_features=[feature for feature in _FEATURES if feature in flags],
            memory_total_bytes=memory.get("MemTotal", 0),
            memory_available_bytes=memory.get("MemAvailable", 0),
        )

    def sampler(self) -> LinuxSampler:
        """See `agents.boards.base.Board.sampler`."""
        return LinuxSampler(self._root)

    def _model(self) -> str:
        tree = self._read("proc/device-tree/model") or self._read("sys/firmware/devicetree/base/model")
        if tree:
            return tree.strip("\0")
        names = (self._read(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
        return " ".join(name for name in names if name)

    def _read(self, path: str) -> str:
        return read_text(self._root / path)


class LinuxSampler:
    """Sensors of procfs and sysfs.

    Args:
        root: as for `GenericLinux`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._times = self._cpu_times()
        self._throttle_count = self._throttles()

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        memory = _memory(read_text(self._root / "proc/meminfo"))
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        return Telemetry(
            unix_s=time.time(),
            ram_used_mb=(total - available) / _MEBIBYTE if total is not None and available is not None else None,
            ram_total_mb=total / _MEBIBYTE if total is not None else None,
            cpu_percent=self._cpu_percent(),
            temperature_c=self._temperatures(),
            power_mw=self._power(),
            throttled=self._throttled(),
            clock_mhz=self._clock_mhz(),
        )

    def _cpu_percent(self) -> list[float | None]:
        """Share of time each possible core was busy since the last reading."""
        before, self._times = self._times, self._cpu_times()
        loads: list[float | None] = []
        for core in range(self._possible_cores()):
            if core not in self._times:
                loads.append(None)  # off
                continue
            busy, total = self._times[core]
            busy_before, total_before = before.get(core, (0, 0))
            passed = total - total_before
            share = 100.0 * (busy - busy_before) / passed if passed > 0 else 0.0
            loads.append(round(min(max(share, 0.0), 100.0), 1))
        return loads

    def _cpu_times(self) -> dict[int, tuple[int, int]]:
        """Busy and total ticks of every core that is on; proc_stat(5)."""
        times = {}
        for line in read_text(self._root / "proc/stat").splitlines():
            name, _, rest = line.partition(" ")
            if name.startswith("cpu") and name[3:].isdigit():
                # user nice system idle iowait irq softirq steal; guest time is already in user.
                ticks = [int(field) for field in rest.split()[:8]]
                idle = sum(ticks[3:5])
                times[int(name[3:])] = (sum(ticks) - idle, sum(ticks))
        return times

    def _possible_cores(self) -> int:
        """Cores the board has, on or off; "0-3" of sysfs."""
        present = read_text(self._root / "sys/devices/system/cpu/present")
        last = present.rpartition(",")[2].rpartition("-")[2]
        return int(last) + 1 if last.isdigit() else max(self._times, default=-1) + 1

    def _temperatures(self) -> dict[str, float]:
        """Thermal zones by type, then the sensors of hwmon by chip and label; thousandths of a degree in sysfs."""
        found: dict[str, float] = {}
        for zone in sorted(self._root.glob("sys/class/thermal/thermal_zone*")):
            _put(found, read_text(zone / "type") or zone.name, read_number(zone / "temp"), 1e-3)
        for sensor in sorted(self._root.glob("sys/class/hwmon/hwmon*/temp*_input")):
            _put(found, _label(sensor, "_input"), read_number(sensor), 1e-3)
        return found

    def _power(self) -> dict[str, float]:
        """Rails of hwmon; microwatts in sysfs. Averages of the driver (`power*_average`) are not instantaneous."""
        found: dict[str, float] = {}
        for sensor in sorted(self._root.glob("sys/class/hwmon/hwmon*/power*_input")):
            _put(found, _label(sensor, "_input"), read_number(sensor), 1e-3)
        return found

    def _throttled(self) -> bool | None:
        """Whether a core was slowed down for its heat since the last reading; None where nothing counts that."""
        before, self._throttle_count = self._throttle_count, self._throttles()
        if before is None or self._throttle_count is None:
            return None
        return self._throttle_count > before

    def _throttles(self) -> float | None:
        paths = self._root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
        counts = [count for path in paths if (count := read_number(path)) is not None]
        return sum(counts) if counts else None

    def _clock_mhz(self) -> float | None:
        """Mean clock of the cores that are on: cpufreq (kHz), else /proc/cpuinfo."""
        paths = self._root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")
        clocks = [clock / 1e3 for path in paths if (clock := read_number(path)) is not None]
        if not clocks:
            lines = read_text(self._root / "proc/cpuinfo").splitlines()
            clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return sum(clocks) / len(clocks) if clocks else None


def read_text(path: Path) -> str:
    """A small file of the kernel, stripped; "" when it cannot be read (sensors come and go)."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return ""


def read_number(path: Path) -> float | None:
    """The number in a file of the kernel; None when there is none."""
    try:
        return float(read_text(path))
    except ValueError:
        return None


def _put(found: dict[str, float], name: str, value: float | None, scale: float) -> None:
    """Add a reading; two sensors of one name are told apart by a number."""
    if value is None:
        return
    unique, count = name, 1
    while unique in found:
        count += 1
        unique = f"{name}_{count}"
    found[unique] = value * scale


def _label(sensor: Path, suffix: str) -> str:
    stem = sensor.name.removesuffix(suffix)
    chip = read_text(sensor.parent / "name") or sensor.parent.name
    label = read_text(sensor.parent / f"{stem}_label") or stem
    return f"{chip}/{label}"


def _cpu_info(text: str) -> dict[str, str]:
    """The first processor's fields, and those that stand once for all (Raspberry Pi: "Model")."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _memory(text: str) -> dict[str, int]:
    """Fields of /proc/meminfo, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def _pretty_name(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()
