"""What a small board notices first: how long the agent takes to serve, and how much memory it keeps."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.agent import client, open_channel, running_agent
from benchmarks.figures import Effort, Goal, Result, Row
from harness.targets.client import AgentClient

#: Memory is read in fresh agents; three tell whether it varies.
MEMORY_REPETITIONS = 3
MEMORY_GOAL = Goal("ours", most=60.0)


def run(effort: Effort) -> Result:
    """Starts, memory, and the command line's first answer."""
    idle, uploaded = zip(*(_memory_mb(effort.upload_bytes) for _ in range(MEMORY_REPETITIONS)), strict=True)
    return Result(
        (
            Row(
                figure="agent: process start to health SERVING",
                unit="ms",
                ours=tuple(_start_ms() for _ in range(effort.repetitions)),
                goal=Goal("ours", most=1000.0),
            ),
            Row(
                figure="agent: resident memory, idle, described once, mutual TLS",
                unit="MB",
                ours=idle,
                goal=MEMORY_GOAL,
            ),
            Row(
                figure=f"agent: resident memory after an upload of {effort.upload_bytes / 1e6:.0f} MB",
                unit="MB",
                ours=uploaded,
                goal=MEMORY_GOAL,
            ),
            Row(
                figure="`quantrig --help`, wall",
                unit="ms",
                ours=tuple(_help_ms() for _ in range(effort.repetitions)),
                goal=Goal("ours", most=500.0),
            ),
        )
    )


def _start_ms() -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(Path(folder), tls=False) as agent,
        AgentClient("bench", open_channel(agent.address, None)) as connection,
    ):
        connection.await_serving(30.0)
        return 1e3 * (time.perf_counter() - agent.started)


def _memory_mb(upload_bytes: int) -> tuple[float, float]:
    """Resident set of the agent's own process (its networks' children apart): idle, and after an upload; 1 MB = 10⁶."""
    with (
        tempfile.TemporaryDirectory() as name,
        running_agent(Path(name)) as agent,
        client(agent.address, agent.host_tls) as connection,
    ):
        process = psutil.Process(agent.pid)
        connection.describe()
        idle = process.memory_info().rss / 1e6
        content = os.urandom(upload_bytes)
        path = Path(name, "upload.bin")
        path.write_bytes(content)
        connection.ship(path, hashlib.sha256(content).hexdigest())
        return idle, process.memory_info().rss / 1e6


def _help_ms() -> float:
    started = time.perf_counter()
    subprocess.run([str(Path(sys.executable).parent / "quantrig"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - started)
