"""Any Linux machine: what procfs and sysfs say of it."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from collections.abc import Mapping

from agents.boards.base import Identity, Telemetry
from agents.boards.clock_limits import ClockLimits
from agents.boards.energy import PLATFORM, EnergyCounters
from agents.boards.hwmon import HwmonSensors
from agents.boards.pressure import Pressure
from agents.boards.sources import Sources, read_number, read_text
from agents.boards.thermal import ThermalZones

_MEBIBYTE = 1 << 20

#: Processor flags that change what int8 networks compute or how fast: x86 names, then those of Arm, of /proc/cpuinfo.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx_vnni_int8"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "sme", "neon"),
)
_GOVERNORS = "sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
_THROTTLE_COUNTERS = "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"


class GenericLinux:
    """A Linux machine without a family of its own.

    Args:
        kind: the name it goes by.
        sources: where procfs, sysfs and /etc are found.
    """

    def __init__(self, kind: str = "generic", sources: Sources | None = None) -> None:
        self.kind = kind
        self._sources = sources or Sources()

    def identity(self) -> Identity:
        """See `agents.boards.base.Board.identity`."""
        read = self._sources.text
        cpu = _cpu_info(read("proc/cpuinfo"))
        flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
        memory = memory_bytes(read("proc/meminfo"))
        boot_id = read("proc/sys/kernel/random/boot_id")
        hostname = socket.gethostname()
        # The machine's own id, hashed: equal for all agents on it, and of no use to anyone else.
        own_id = read("etc/machine-id") or read("var/lib/dbus/machine-id") or f"{hostname} {boot_id}"
        return Identity(
            model=self._model(),
            hostname=hostname,
            machine_id=hashlib.sha256(own_id.encode()).hexdigest(),
            boot_id=boot_id,
            os=f"{_pretty_name(read('etc/os-release'))}, Linux {platform.release()}",
            architecture=platform.machine(),
            cpu_model=cpu.get("model name") or cpu.get("Model") or cpu.get("Hardware") or platform.processor(),
            cpu_count=len(os.sched_getaffinity(0)),
            cpu_features=[feature for feature in _FEATURES if feature in flags],
            memory_total_bytes=memory.get("MemTotal", 0),
            memory_available_bytes=memory.get("MemAvailable", 0),
            details=self.details(),
        )

    def details(self) -> Mapping[str, str]:
        """What `Identity.details` holds; a family adds to it."""
        governors = {name for path in self._sources.glob(_GOVERNORS) if (name := read_text(path))}
        found = {"governor": ", ".join(sorted(governors))} if governors else {}
        locked = self.cpu_clocks_locked()
        return found if locked is None else {**found, "clocks_locked": "yes" if locked else "no"}

    def cpu_clocks_locked(self) -> bool | None:
        """Whether every core's range of clocks is one point; None where cpufreq does not say."""
        verdicts = []
        for path in self._sources.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_min_freq"):
            low, high = read_number(path), read_number(path.with_name("scaling_max_freq"))
            if low is not None and high is not None:
                verdicts.append(low == high)
        return all(verdicts) if verdicts else None

    def sampler(self, interval_s: float = 1.0) -> LinuxSampler:  # noqa: ARG002 - files are read when asked
        """See `agents.boards.base.Board.sampler`."""
        return LinuxSampler(self._sources)

    def _model(self) -> str:
        read = self._sources.text
        tree = read("proc/device-tree/model") or read("sys/firmware/devicetree/base/model")
        if tree:
            return tree.strip("\0")
        names = (read(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
        return " ".join(name for name in names if name)


class LinuxSampler:
    """Sensors of procfs and sysfs.

    Args:
        sources: as for `GenericLinux`.
    """

    def __init__(self, sources: Sources | None = None) -> None:
        self._sources = sources or Sources()
        self._zones = ThermalZones(self._sources)
        self._hwmon = HwmonSensors(self._sources)
        self._energy = EnergyCounters(self._sources)
        self._pressure = Pressure(self._sources)
        self._limits = ClockLimits(self._sources)
        self._clocks = list(self._sources.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))
        self._throttle_counters = list(self._sources.glob(_THROTTLE_COUNTERS))
        self._times = self._cpu_times()
        self._throttle_count = self._throttles()

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        memory = memory_bytes(self._sources.text("proc/meminfo"))
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        power = self.power_mw()
        reasons = self.throttle_reasons()
        clock = self.cpu_clock_mhz()
        return Telemetry(
            unix_s=time.time(),
            ram_used_mb=(total - available) / _MEBIBYTE if total is not None and available is not None else None,
            ram_total_mb=total / _MEBIBYTE if total is not None else None,
            cpu_percent=self.cpu_percent(),
            temperature_c=self.temperature_c(),
            power_mw=power,
            # The other zones of RAPL are packages and parts of them: neither covers the machine.
            total_power_mw=power.get(PLATFORM),
            total_power_rail=PLATFORM if PLATFORM in power else None,
            throttled=bool(reasons) if reasons is not None else None,
            throttled_by=reasons or (),
            clock_mhz=clock,
            clocks_mhz={"cpu": clock} if clock is not None else {},
            pressure_percent=self._pressure.percent(),
        )

    def close(self) -> None:
        """See `agents.boards.base.Sampler.close`: nothing was started."""

    def cpu_percent(self) -> list[float | None]:
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

    def temperature_c(self) -> Mapping[str, float]:
        """Zones of the kernel, then sensors of hwmon."""
        return {**self._zones.temperatures(), **self._hwmon.temperatures()}

    def power_mw(self) -> Mapping[str, float]:
        """Rails of hwmon, then the processor's energy counters."""
        return {**self._hwmon.power_mw(), **self._energy.power_mw()}

    def throttle_reasons(self) -> list[str] | None:
        """Why the processor is slowed down, or about to be; None where nothing here would tell."""
        before, self._throttle_count = self._throttle_count, self._throttles()
        counted = before is not None and self._throttle_count is not None
        reasons = [*self._zones.near_trips(), *self._limits.reasons()]
        if not counted and not self._zones.has_trips and not reasons:
            return None
        if before is not None and self._throttle_count is not None and self._throttle_count > before:
            reasons.append("a core was slowed down for its heat since the last sample")
        return reasons

    def cpu_clock_mhz(self) -> float | None:
        """Mean clock of the cores that are on: cpufreq (kHz), else /proc/cpuinfo."""
        clocks = [clock / 1e3 for path in self._clocks if (clock := read_number(path)) is not None]
        if not clocks:
            lines = self._sources.text("proc/cpuinfo").splitlines()
            clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return sum(clocks) / len(clocks) if clocks else None

    def _cpu_times(self) -> dict[int, tuple[int, int]]:
        """Busy and total ticks of every core that is on; proc_stat(5)."""
        times = {}
        for line in self._sources.text("proc/stat").splitlines():
            name, _, rest = line.partition(" ")
            if name.startswith("cpu") and name[3:].isdigit():
                # user nice system idle iowait irq softirq steal; guest time is already in user.
                ticks = [int(field) for field in rest.split()[:8]]
                idle = sum(ticks[3:5])
                times[int(name[3:])] = (sum(ticks) - idle, sum(ticks))
        return times

    def _possible_cores(self) -> int:
        """Cores the board has, on or off; "0-3" of sysfs."""
        present = self._sources.text("sys/devices/system/cpu/present")
        last = present.rpartition(",")[2].rpartition("-")[2]
        return int(last) + 1 if last.isdigit() else max(self._times, default=-1) + 1

    def _throttles(self) -> float | None:
        counts = [count for path in self._throttle_counters if (count := read_number(path)) is not None]
        return sum(counts) if counts else None


def _cpu_info(text: str) -> dict[str, str]:
    """The first processor's fields, and those that stand once for all (Raspberry Pi: "Model")."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def memory_bytes(text: str) -> dict[str, int]:
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
