"""A machine with an NVIDIA GPU: a stand-in for nvidia-smi, and one for the package nvidia-ml-py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.boards import find_board
from agents.boards.base import Sampler
from agents.boards.nvidia import NvidiaGpu, NvidiaSampler
from tests.agents.boards.conftest import ROOT, Tree

Closing = Callable[[Sampler], Sampler]
HEADER = (
    "timestamp, index, name, utilization.gpu [%], temperature.gpu, power.draw.instant [W], clocks.current.sm [MHz], "
    "clocks.current.memory [MHz], {}"
)
ROW = "2026/11/21 18:00:00.123, 0, NVIDIA RTX A2000, 97 %, 61, 68.25 W, 1755 MHz, 6001 MHz, {}"
SMI = f"""
case "$*" in
*driver_version*) echo "NVIDIA RTX A2000, 550.54.14, 70.00, 2100"; exit 0;;
*{{refused}}*) echo 'Field "{{refused}}" is not a valid field to query.'; exit 2;;
esac
echo "{HEADER}"
while :; do echo "{ROW}"; sleep 0.05; done
"""


def smi(reasons: str, field: str, refused: str = "nothing") -> str:
    return (
        SMI.replace("{refused}", refused).replace("[MHz], {}", f"[MHz], {field}").replace("MHz, {}", f"MHz, {reasons}")
    )


@pytest.mark.parametrize(
    ("reasons", "told"), [("0x0000000000000001", []), ("0x0000000000000044", ["hardware thermal slowdown"])]
)
def test_nvidia_smi_as_one_long_process(tree: Tree, closing: Closing, reasons: str, told: list[str]) -> None:
    tree.tool("nvidia-smi", smi(reasons, "clocks_event_reasons.active"))
    sample = closing(NvidiaSampler(tree.sources, 0.1)).sample()
    assert (sample.gpu_percent, sample.clock_mhz) == (97, 1755)
    assert sample.temperature_c == {"gpu0": 61}
    assert (sample.total_power_mw, sample.total_power_rail) == (68250, "gpu0")
    assert sample.clocks_mhz == {"gpu": 1755, "gpu memory": 6001}
    assert list(sample.throttled_by) == told
    assert sample.throttled is bool(told)


def test_a_driver_that_knows_the_older_name_only(tree: Tree, closing: Closing) -> None:
    field = "clocks_throttle_reasons.active"
    tree.tool("nvidia-smi", smi("0x0000000000000008", field, refused="clocks_event_reasons.active"))
    sample = closing(NvidiaSampler(tree.sources, 0.1)).sample()
    assert list(sample.throttled_by) == ["hardware slowdown"]


def test_without_a_gpu_the_machine_tells_and_no_clock_is_the_gpus(tree: Tree, closing: Closing) -> None:
    tree.put({"proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB\n", "proc/cpuinfo": "cpu MHz\t: 3000\n"})
    tree.tool(
        "nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9"
    )
    sample = closing(NvidiaSampler(tree.sources, 0.1)).sample()
    assert sample.ram_total_mb == 1
    assert sample.gpu_percent is sample.clock_mhz is None


def test_identity(tree: Tree) -> None:
    tree.tool("nvidia-smi", smi("0x0", "clocks_event_reasons.active"))
    board = find_board("nvidia-gpu", tree.sources)
    assert isinstance(board, NvidiaGpu)
    assert board.details() == {
        "gpu": "NVIDIA RTX A2000",
        "driver": "550.54.14",
        "power_limit_w": "70.00",
        "gpu_max_clock_mhz": "2100",
    }


#: The calls of nvidia-ml-py that are used, as nvml.h has their results; a GPU without a power sensor of its own.
PYNVML = """
class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
class Utilization: gpu, memory = 97, 40
class Value: uiVal = 68250
class Field: nvmlReturn, value = 0, Value()
def nvmlInit(): pass
def nvmlShutdown(): open("closed", "w").close()
def nvmlDeviceGetHandleByIndex(index): return ("handle", index)
def nvmlDeviceGetName(handle): return b"NVIDIA H100"
def nvmlSystemGetDriverVersion(): return "550.54.14"
def nvmlDeviceGetUtilizationRates(handle): return Utilization
def nvmlDeviceGetTemperature(handle, sensor): return 61
def nvmlDeviceGetClockInfo(handle, kind): return {1: 1755, 2: 2619}[kind]
def nvmlDeviceGetMaxClockInfo(handle, kind): return 1980
def nvmlDeviceGetEnforcedPowerLimit(handle): raise NVMLError_NotSupported("Not Supported")
def nvmlDeviceGetFieldValues(handle, fields): return [Field] if fields == [186] else []
def nvmlDeviceGetCurrentClocksThrottleReasons(handle): return 0x24
"""


def test_the_management_library(tmp_path: Path) -> None:
    """In a process of its own, where the package is the stand-in."""
    (tmp_path / "pynvml.py").write_text(PYNVML)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    arguments = ["telemetry", "--board", "nvidia-gpu", "--json", "--interval", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "agents", *arguments],
        capture_output=True, check=True, text=True, env=environment, cwd=tmp_path, timeout=30,
    )  # fmt: skip
    sample = json.loads(done.stdout)
    assert sample["gpu_percent"] == 97
    assert sample["temperature_c"]["gpu0"] == 61
    assert (sample["total_power_mw"], sample["total_power_rail"]) == (68250, "gpu0")
    assert (sample["clocks_mhz"]["gpu"], sample["clocks_mhz"]["gpu memory"]) == (1755, 2619)
    assert (sample["throttled"], sample["throttled_by"][0]) == (True, "software thermal slowdown")
    assert (tmp_path / "closed").exists()
    described = subprocess.run(
        [sys.executable, "-m", "agents", "describe", "--board", "nvidia-gpu", "--json"],
        capture_output=True, check=True, text=True, env=environment, cwd=tmp_path, timeout=30,
    )  # fmt: skip
    details = json.loads(described.stdout)["details"]
    assert (details["gpu"], details["driver"], details["gpu_max_clock_mhz"]) == ("NVIDIA H100", "550.54.14", "1980")
    assert "power_limit_w" not in details
