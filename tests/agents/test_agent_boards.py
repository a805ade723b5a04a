"""The generic Linux board against trees of files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.boards import find_board
from agents.boards.base import Telemetry
from agents.boards.generic import GenericLinux, LinuxSampler
from agents.boards.sources import Sources

#: As proc(5) and the kernel's documentation of sysfs (thermal, hwmon, cpufreq) describe them; values of a Raspberry Pi.
PI = {
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": (
        "processor\t: 0\nFeatures\t: fp asimd evtstrm asimdhp cpuid asimdrdm asimddp\n\n"
        "processor\t: 1\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    ),
    "proc/meminfo": "MemTotal:        8252928 kB\nMemFree:         1000 kB\nMemAvailable:    4126464 kB\n",
    "proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0\ncpu1 10 0 0 990 0 0 0 0 0 0\nintr 1\n",
    "sys/devices/system/cpu/present": "0-3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/hwmon/hwmon1/name": "rp1_adc\n",
    "sys/class/hwmon/hwmon1/temp1_input": "51000\n",
    "sys/class/hwmon/hwmon2/name": "ina226\n",
    "sys/class/hwmon/hwmon2/power1_input": "4250000\n",
    "sys/class/hwmon/hwmon2/power1_label": "VDD_5V\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1500000\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in PI.items():
        put(tmp_path, name, text)
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_raspberry_pi_by_its_files(root: Path) -> None:
    who = GenericLinux("raspberry-pi-5", Sources(root)).identity()
    assert who.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert who.cpu_model == "Raspberry Pi 5 Model B Rev 1.0"
    assert list(who.cpu_features) == ["asimd", "asimdhp", "asimddp"]
    assert who.memory_total_bytes == 8252928 * 1024
    assert who.memory_available_bytes == 4126464 * 1024
    assert who.os.startswith("Debian GNU/Linux 12 (bookworm), Linux ")
    put(root, "etc/machine-id", "another\n")
    assert GenericLinux("generic", Sources(root)).identity().machine_id != who.machine_id


def test_loads_are_of_the_time_between_two_readings(root: Path) -> None:
    sampler = LinuxSampler(Sources(root))
    # Core 0: 100 ticks more, 25 of them busy; core 1: off now; cores 2 and 3: on since.
    stat = "cpu0 120 0 55 860 65 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\ncpu3 50 0 0 50 0 0 0 0 0 0\n"
    put(root, "proc/stat", stat)
    sample = sampler.sample()
    assert sample.cpu_percent == [25.0, None, 0.0, 50.0]
    assert sample.ram_total_mb == 8252928 / 1024
    assert sample.ram_used_mb == (8252928 - 4126464) / 1024
    assert sample.temperature_c == {"cpu-thermal": pytest.approx(48.312), "rp1_adc/temp1": pytest.approx(51.0)}
    assert sample.power_mw == {"ina226/VDD_5V": pytest.approx(4250.0)}
    assert sample.clock_mhz == pytest.approx(1950.0)
    assert sample.throttled is None  # nothing counts it here


def test_throttling_is_what_happened_since_the_last_reading(root: Path) -> None:
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    put(root, counter, "7\n")
    sampler = LinuxSampler(Sources(root))
    assert sampler.sample().throttled is False
    put(root, counter, "8\n")
    assert sampler.sample().throttled is True
    assert sampler.sample().throttled is False


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    sample = LinuxSampler(Sources(tmp_path)).sample()
    assert sample.ram_used_mb is sample.ram_total_mb is sample.clock_mhz is sample.throttled is None
    assert sample.cpu_percent == []
    assert sample.temperature_c == sample.power_mw == {}
    who = GenericLinux("generic", Sources(tmp_path)).identity()
    assert who.model == ""
    assert who.boot_id == ""
    assert len(who.machine_id) == 64


def test_sensors_that_fail_or_share_a_name(root: Path) -> None:
    put(root, "sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
    put(root, "sys/class/thermal/thermal_zone1/temp", "50000\n")
    put(root, "sys/class/thermal/thermal_zone2/type", "modem\n")
    put(root, "sys/class/thermal/thermal_zone2/temp", "\n")
    names = set(LinuxSampler(Sources(root)).sample().temperature_c)
    assert names == {"cpu-thermal", "cpu-thermal_2", "rp1_adc/temp1"}


def test_unknown_is_null_and_absent_never_0() -> None:
    sample = Telemetry(unix_s=1.0, cpu_percent=[None, 3.0])
    assert '"gpu_percent": null' in sample.to_json()
    assert '"cpu_percent": [null, 3.0]' in sample.to_json()
    message = sample.to_proto()
    for name in ("ram_used_mb", "gpu_percent", "total_power_mw", "total_power_rail", "throttled", "clock_mhz"):
        assert not message.HasField(name)
    assert [cpu.HasField("percent") for cpu in message.cpu] == [False, True]
    assert sample.to_text() == "CPU off 3%"


def test_a_kind_without_a_family_is_linux_under_that_name() -> None:
    assert find_board().kind == "generic"
    board = find_board("jetson-orin-nano")
    assert isinstance(board, GenericLinux)
    assert board.kind == "jetson-orin-nano"
