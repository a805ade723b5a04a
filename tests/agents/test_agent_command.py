"""The command `quantrig-agent`, the size and speed of its process, and what the board says of itself."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import onnxruntime
import psutil
import pytest

import agents
from agents.protocol import PROTOCOL_VERSION
from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import ROOT, AgentProcess, StartAgent, failure, upload_requests

MEBIBYTE = 1 << 20


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agents", *arguments], capture_output=True, check=False, text=True, timeout=120, cwd=ROOT
    )


def test_help_is_quick_and_loads_nothing_large() -> None:
    done = command("--help")
    assert shortest_s([sys.executable, "-m", "agents", "--help"]) < 0.5 * slower()
    assert done.returncode == 0
    assert "serve" in done.stdout
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import agents.cli"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not {"grpc", "google.protobuf", "numpy", "onnxruntime"} & imported(listed.stderr)


def imported(importtime: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in importtime.splitlines()}


def slower() -> float:
    """How much slower this machine is now, old or busy, than what promises of start-up time are meant for."""
    return max(1.0, shortest_s([sys.executable, "-I", "-S", "-c", "pass"]) / 0.03)


def shortest_s(words: list[str]) -> float:
    """Of five starts of a command."""

    def once() -> float:
        began = time.monotonic()
        subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
        return time.monotonic() - began

    return min(once() for _ in range(5))


def test_the_installed_command_is_the_same() -> None:
    script = shutil.which("quantrig-agent", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the distribution is not installed in this environment")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"quantrig-agent {agents.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--quota-mb", "0"],
        ["serve", "--batch-timeout-s", "nan"],
        ["serve", "--board", "../x"],
        ["serve", "--memory-limit", "swap"],
        ["telemetry", "--interval", "-1"],
        ["telemetry", "--board", "NO SUCH"],
        ["nothing"],
        [],
    ],
)
def test_bad_input_exits_2_without_a_traceback(arguments: Sequence[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_start_to_serving_takes_less_than_a_second(start_agent: StartAgent) -> None:
    factor = slower()
    fastest = min(start_agent().start_s for _ in range(3))
    assert fastest <= 1.0 * max(factor, slower())


def test_the_serving_process_is_small_and_imports_no_numpy(start_agent: StartAgent) -> None:
    """60 MB idle and after 100 MB came in; a library once loaded would be in the process's maps."""
    agent = start_agent()
    agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    idle = agent.rss_bytes()
    data = os.urandom(100 * MEBIBYTE)
    digest = hashlib.sha256(data).hexdigest()
    agent.stub.Upload(upload_requests(digest, data), timeout=60)
    assert idle <= 60e6
    assert agent.rss_bytes() <= 60e6
    maps = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "cygrpc" in maps  # so that the next lines can fail
    assert "numpy" not in maps
    assert "onnxruntime" not in maps


def test_no_module_of_the_serving_process_imports_numpy_even_lazily() -> None:
    """By the source: every import statement reachable from `agents.server`, in functions too, but not the child's."""
    reachable, queue = set[str](), ["agents.server", "agents.cli"]
    outside = set[str]()
    while queue:
        name = queue.pop()
        if name in reachable:
            continue
        reachable.add(name)
        path = ROOT / Path(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [
                    node.module,
                    *[one for one in below if (ROOT / Path(*one.split("."))).with_suffix(".py").exists()],
                ]
            for one in names:
                if one.split(".")[0] == "agents":
                    queue.append(one)
                else:
                    outside.add(one.split(".")[0])
    assert "agents.networks" in reachable
    assert "grpc" in outside
    assert not outside & {"numpy", "onnxruntime", "onnx", "psutil", "pickle"}
    assert "harness" not in outside


def test_describe_says_what_the_machine_is(agent: AgentProcess) -> None:
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert board.agent_version == agents.__version__
    assert board.protocol_version == PROTOCOL_VERSION
    assert (board.board, board.emulated) == ("generic", False)
    assert board.hostname == platform.node()
    assert board.architecture == platform.machine()
    assert board.python_version == platform.python_version()
    assert platform.release() in board.os
    assert board.cpu_count == len(psutil.Process().cpu_affinity() or [])
    assert board.memory_total_bytes == psutil.virtual_memory().total
    assert board.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(board.machine_id) == 64
    assert board.machine_id != Path("/etc/machine-id").read_text().strip()
    runtime, *others = board.runtimes  # the default first; the others say why they do not work here
    assert {one.name for one in others} >= {"xnnpack", "cuda", "tensorrt", "vitisai", "vart"}
    assert all(one.problem or one.version for one in others)
    assert (runtime.name, runtime.version, runtime.problem) == ("onnxruntime", onnxruntime.__version__, "")
    assert list(runtime.providers) == ["CPUExecutionProvider"]
    usage = shutil.disk_usage(agent.data_dir)
    assert abs(board.storage_free_bytes - usage.free) < 1 << 30
    assert board.policy.memory_limit_kind in ("cgroup-v2", "cgroup-v1", "rlimit")


def test_two_agents_on_one_machine_say_the_same_machine(agent: AgentProcess, start_agent: StartAgent) -> None:
    other = start_agent("--board", "zcu102", "--emulated").stub.Describe(pb.DescribeRequest(), timeout=120)
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert other.board == "zcu102"
    assert other.machine_id == board.machine_id


def test_describe_on_the_command_line(agent: AgentProcess) -> None:
    facts = json.loads(command("describe", "--json").stdout)
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert facts["machine_id"] == board.machine_id
    assert facts["cpu_features"] == list(board.cpu_features)
    assert "machine_id: " in command("describe").stdout


KEYS = {
    *("ram_used_mb", "ram_total_mb", "cpu_percent", "gpu_percent", "temperature_c", "power_mw"),
    *("total_power_mw", "total_power_rail", "throttled", "throttled_by", "clocks_mhz", "pressure_percent"),
}


def test_telemetry_on_the_command_line() -> None:
    done = command("telemetry", "--json", "--samples", "2", "--interval", "0.2")
    assert done.returncode == 0
    samples: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == 2
    for sample in samples:
        assert set(sample) == KEYS
        assert sample["ram_total_mb"] == pytest.approx(psutil.virtual_memory().total / MEBIBYTE)
        assert sample["ram_used_mb"] < sample["ram_total_mb"]
        assert len(sample["cpu_percent"]) == psutil.cpu_count()
        assert sample["gpu_percent"] is None  # unknown, not 0
    assert "RAM" in command("telemetry", "--interval", "0.1", "--board", "jetson-orin-nano").stdout


def test_a_slip_in_the_kind_of_board_is_told() -> None:
    done = command("telemetry", "--interval", "0.1", "--board", "jetson-orin-nanoo")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "quantrig-agent: --board jetson-orin-nanoo: taken as any Linux machine; known are jetson-nano,"
    )
    assert not command("telemetry", "--interval", "0.1", "--board", "jetson-orin-nano").stderr


def test_telemetry_stream(agent: AgentProcess) -> None:
    began = time.time()
    samples = list(agent.stub.StreamTelemetry(pb.TelemetryRequest(interval_s=0.1, duration_s=0.5), timeout=120))
    assert len(samples) == 5
    times = [sample.unix_s for sample in samples]
    assert times == sorted(times)
    assert began < times[0] < times[-1] < time.time() + 1
    for sample in samples:
        assert sample.ram_total_mb == pytest.approx(psutil.virtual_memory().total / MEBIBYTE)
        assert len(sample.cpu) == psutil.cpu_count()
        assert not sample.HasField("gpu_percent")
    endless = agent.stub.StreamTelemetry(pb.TelemetryRequest(interval_s=0.1))
    assert next(endless)
    endless.cancel()
    for interval_s, duration_s in ((0.0, 1.0), (0.01, 1.0), (float("nan"), 1.0), (1.0, -1.0), (1.0, float("inf"))):
        request = pb.TelemetryRequest(interval_s=interval_s, duration_s=duration_s)
        assert failure(partial(agent.stub.StreamTelemetry, request))[0] is grpc.StatusCode.INVALID_ARGUMENT
