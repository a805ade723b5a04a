"""A Jetson from a tree of its files and stand-ins for tegrastats, nvpmodel and jetson_clocks."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.boards import find_board
from agents.boards.base import Sampler
from agents.boards.jetson import Jetson, JetsonSampler
from agents.boards.lines import LineProcess
from agents.boards.tegra_sysfs import OverCurrent
from tests.agents.boards.conftest import ROOT, Tree
from tests.agents.conftest import is_running, wait_for

LINE = (
    "RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,off,1%@729] EMC_FREQ 61%@2133 "
    "GR3D_FREQ 99%@[612] PMIC@100C cpu@57.125C gpu@58.625C VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW"
)
#: As tegrastats does: a line after each interval, for ever.
TEGRASTATS = f"""
[ "$1" = --interval ] || exit 1
while :; do sleep "$(awk "BEGIN {{print $2 / 1000}}")"; echo "{LINE}"; done
"""
GPU = "sys/class/devfreq/17000000.gpu"
RAIL = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
OC = "sys/class/hwmon/hwmon5"
#: Names and units as NVIDIA's drivers have them.
FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/meminfo": "MemTotal: 7802880 kB\nMemAvailable: 4000000 kB\n",
    "proc/stat": "cpu0 100 0 50 800 50 0 0 0 0 0\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "".join(
        f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in enumerate(("15W", "25W", "MAXN_SUPER"))
    ),
    "var/lib/nvpmodel/status": "pmode:0002\n",
    f"{GPU}/device/of_node/name": "gpu\0",
    f"{GPU}/device/load": "437\n",
    f"{GPU}/cur_freq": "612000000\n",
    f"{GPU}/min_freq": "306000000\n",
    f"{GPU}/max_freq": "918000000\n",
    "sys/bus/i2c/devices/1-0040/name": "ina3221\n",
    f"{RAIL}/in1_label": "VDD_IN\n",
    f"{RAIL}/in1_input": "5016\n",
    f"{RAIL}/curr1_input": "1000\n",
    f"{RAIL}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{RAIL}/in2_input": "5000\n",
    f"{RAIL}/curr2_input": "200\n",
    f"{RAIL}/in3_label": "NC\n",
    f"{RAIL}/in3_input": "0\n",
    f"{RAIL}/curr3_input": "0\n",
    f"{RAIL}/in7_label": "sum of shunt voltages\n",
    f"{RAIL}/in7_input": "760\n",
    f"{OC}/name": "soctherm_oc\n",
    f"{OC}/oc1_event_cnt": "0\n",
    f"{OC}/oc2_event_cnt": "15\n",
    f"{OC}/oc3_event_cnt": "37\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "57125\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000\n",
    "sys/class/thermal/thermal_zone1/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone1/temp": "100000\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1497600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1728000\n",
}
Closing = Callable[[Sampler], Sampler]


@pytest.fixture
def jetson(tree: Tree) -> Tree:
    tree.put(FILES)
    return tree


def test_identity(jetson: Tree) -> None:
    jetson.tool("nvpmodel", 'echo "NVPM WARN: fan mode is not set!"; echo "NV Power Mode: MAXN_SUPER"; echo 2')
    board = find_board("jetson-orin-nano", jetson.sources)
    assert isinstance(board, Jetson)
    who = board.identity()
    assert who.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert who.details == {
        "governor": "schedutil",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "power_mode": "MAXN_SUPER",
        "power_mode_id": "2",
        "power_modes": "15W, 25W, MAXN_SUPER",
        "clocks_locked": "no",
    }


def test_locked_clocks_of_the_kernel_and_of_the_tool(jetson: Tree) -> None:
    board = Jetson("jetson-orin-nano", jetson.sources)
    cpufreq = "sys/devices/system/cpu/cpu0/cpufreq"
    jetson.put({f"{cpufreq}/scaling_min_freq": "1728000\n"})
    assert board.details()["clocks_locked"] == "no"  # the GPU's are not
    jetson.put({f"{GPU}/min_freq": "918000000\n"})
    assert board.details()["clocks_locked"] == "yes"
    (jetson.root / cpufreq / "scaling_min_freq").unlink()
    shown = "cpu0: Governor=schedutil MinFreq=1 MaxFreq=1 CurrentFreq=1\nGPU MinFreq=5 MaxFreq=6 CurrentFreq=5"
    jetson.tool("jetson_clocks", f'[ "$1" = --show ] && cat <<END\n{shown}\nEND')
    assert board.details()["clocks_locked"] == "no"
    jetson.tool("jetson_clocks", 'echo "Error: Run this script(/usr/bin/jetson_clocks) as a root user" >&2; exit 1')
    assert "clocks_locked" not in board.details()


def test_without_tegrastats_the_kernels_files_tell(jetson: Tree, closing: Closing) -> None:
    sampler = closing(JetsonSampler(jetson.sources))
    sample = sampler.sample()
    assert sample.ram_total_mb == 7620
    assert sample.gpu_percent == 43.7
    assert sample.clock_mhz == 612
    assert sample.clocks_mhz == {"cpu": 1497.6, "gpu": 612}
    assert sample.temperature_c == {"cpu-thermal": 57.125}  # neither the placeholder nor the sensor that is off
    assert sample.power_mw == {"VDD_IN": pytest.approx(5016), "VDD_CPU_GPU_CV": pytest.approx(1000)}
    assert sample.total_power_mw == pytest.approx(5016)
    assert sample.total_power_rail == "VDD_IN"
    assert (sample.throttled, list(sample.throttled_by)) == (False, [])


def test_rails_of_jetpack_4(tree: Tree, closing: Closing) -> None:
    device = "sys/bus/i2c/devices/0-0041/iio:device1"
    tree.put(
        {
            "sys/bus/i2c/devices/0-0041/name": "ina3221x\n",
            f"{device}/rail_name_0": "VDD_IN\n",
            f"{device}/in_power0_input": "2057\n",
            f"{device}/rail_name_1": "VDD_SYS_GPU\n",
            f"{device}/in_power1_input": "152\n",
        }
    )
    sample = closing(JetsonSampler(tree.sources)).sample()
    assert sample.power_mw == {"VDD_IN": 2057, "VDD_SYS_GPU": 152}
    assert sample.total_power_rail == "VDD_IN"


def test_tegrastats_tells_first(jetson: Tree, closing: Closing) -> None:
    jetson.tool("tegrastats", TEGRASTATS)
    sampler = JetsonSampler(jetson.sources, 0.1)
    closing(sampler)
    sample = sampler.sample()
    assert (sample.ram_used_mb, sample.ram_total_mb) == (6712, 7620)
    assert list(sample.cpu_percent) == [38, None, 1]
    assert sample.gpu_percent == 99
    assert sample.temperature_c == {"cpu": 57.125, "gpu": 58.625}
    assert (sample.total_power_mw, sample.total_power_rail) == (16321, "VDD_IN")
    assert sample.clocks_mhz["emc"] == 2133
    assert sample.throttled is False  # the kernel's counters, which tegrastats does not show


def test_the_line_of_now_is_taken_and_none_is_waited_for(jetson: Tree, closing: Closing) -> None:
    """The tool prints once: a second sample that waited for a line would do so for two intervals."""
    jetson.tool("tegrastats", f'echo "{LINE}"; exec sleep 60')
    sampler = closing(JetsonSampler(jetson.sources, 1.0))
    sampler.sample()
    began = time.monotonic()
    assert sampler.sample().gpu_percent == 99
    assert time.monotonic() - began < 1.9


def test_tegrastats_that_dies_leaves_the_kernels_files(jetson: Tree, closing: Closing) -> None:
    jetson.tool("tegrastats", "echo cannot open /dev/nvhost; exit 1")
    sampler = closing(JetsonSampler(jetson.sources, 0.1))
    for _ in range(2):
        sample = sampler.sample()
        assert sample.gpu_percent == 43.7
        assert sample.power_mw["VDD_IN"] == pytest.approx(5016)
    began = time.monotonic()
    jetson.tool("tegrastats", "exec sleep 60")
    sampler.sample()
    assert time.monotonic() - began < 1.9  # a tool that says nothing is not asked again: it has two seconds


def test_throttling(jetson: Tree, closing: Closing) -> None:
    sampler = closing(JetsonSampler(jetson.sources))

    def reasons(files: dict[str, str]) -> list[str]:
        jetson.put(files)
        sample = sampler.sample()
        assert sample.throttled is bool(sample.throttled_by)
        return list(sample.throttled_by)

    assert reasons({}) == []
    assert reasons({f"{OC}/oc3_event_cnt": "40\n", f"{OC}/oc1_event_cnt": "1\n"}) == [
        "under-voltage (1 events)",
        "instantaneous over-current (3 events)",
    ]
    assert reasons({}) == []  # told once
    zone = "sys/class/thermal/thermal_zone0/temp"
    assert reasons({zone: "95999\n"}) == []
    assert reasons({zone: "96001\n"}) == ["cpu-thermal at 96.0 °C, its passive trip is 99 °C"]
    assert reasons({zone: "50000\n", f"{GPU}/max_freq": "612000000\n"}) == [
        "the GPU's clock range changed from 306 to 918 to 306 to 612 MHz"
    ]
    assert reasons({"var/lib/nvpmodel/status": "pmode:0000\n"}) == ["the power mode changed since the last sample"]
    limit = "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    assert reasons({limit: "1497600\n"}) == ["cpu0's clock is held to 1497.6 MHz, below 1728 MHz"]
    assert reasons({limit: "1728000\n"}) == []


def test_tegrastats_ends_with_the_sampler(jetson: Tree) -> None:
    jetson.tool("tegrastats", f'echo $$ > "{jetson.root}/pid"\n' + TEGRASTATS)
    sampler = JetsonSampler(jetson.sources, 0.1)
    pid = wait_for(lambda: int((jetson.root / "pid").read_text() or 0) if (jetson.root / "pid").exists() else 0, "pid")
    assert is_running(pid)
    sampler.close()
    assert not is_running(pid)
    sampler.close()  # a second time does nothing


def waiting_bytes(pid: int) -> int:
    """What waits in the pipe that is a process's stdout."""
    pipe = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]  # type: ignore[no-any-return]
    finally:
        os.close(pipe)


class TestLines:
    """A tool that prints by itself."""

    def test_lines_come_whole_and_in_order(self, tmp_path: Path) -> None:
        process = LineProcess(
            ["/bin/sh", "-c", f"printf 'a\\nb'; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo c"]
        )
        try:
            assert wait_for(lambda: process.lines(1.0), "the first line") == ["a"]
            assert process.lines(0.0) == []
            (tmp_path / "go").touch()
            assert wait_for(lambda: process.lines(1.0), "the second line") == ["bc"]
            assert process.lines(1.0) == []
            assert process.ended
        finally:
            process.close()

    def test_what_waited_in_a_full_pipe_is_old_and_left_out(self) -> None:
        """64 KiB that nobody took, and the line that did not fit: the tool goes on by the clock once there is room."""
        script = "yes old | head -c 65536; echo stale; while sleep 0.2; do echo new; done"
        process = LineProcess(["/bin/sh", "-c", script])
        try:
            wait_for(lambda: waiting_bytes(process.pid) == 65_536, "a full pipe")
            seen = wait_for(lambda: process.lines(1.0), "a line")
            assert set(seen) == {"new"}
        finally:
            process.close()

    def test_a_tool_that_ignores_the_request_to_end_is_killed(self) -> None:
        process = LineProcess(["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
        assert wait_for(lambda: process.lines(1.0), "its first line") == ["ready"]
        process.close()
        assert not is_running(process.pid)

    def test_an_agent_that_is_killed_leaves_no_tool_behind(self, tmp_path: Path) -> None:
        """The tool's next line finds no reader."""
        code = (
            "import sys; from agents.boards.lines import LineProcess\n"
            "p = LineProcess(['/bin/sh', '-c', 'while :; do echo x; sleep 0.05; done'])\n"
            "p.lines(5.0); print(p.pid, flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert is_running(pid)
        os.kill(holder.pid, 9)
        holder.wait(60)
        wait_for(lambda: not is_running(pid), "the end of the tool")
        holder.stdout.close()
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_counter_that_cannot_be_read_for_a_moment_loses_no_event(jetson: Tree) -> None:
    counters = OverCurrent(jetson.sources)
    path = jetson.root / OC / "oc3_event_cnt"
    path.unlink()
    assert counters.reasons() == []
    jetson.put({f"{OC}/oc3_event_cnt": "40\n"})
    assert counters.reasons() == ["instantaneous over-current (3 events)"]
