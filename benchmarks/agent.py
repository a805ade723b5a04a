"""An agent process for a benchmark, with or without mutual TLS, and clients of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from harness.targets.addresses import Address, open_link
from harness.targets.certificates import create_lab, issue_agent, issue_host
from harness.targets.client import AgentClient
from harness.targets.connect import CHANNEL_OPTIONS

REACH_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """Where it listens, and its process."""

    address: str
    pid: int
    #: moment of the process's start on `time.perf_counter`
    started: float
    host_tls: Path | None


@contextmanager
def running_agent(folder: Path, *, tls: bool = True) -> Iterator[RunningAgent]:
    """`python -m agents serve` on a free loopback port, with a store of its own below `folder`."""
    arguments = ["--listen", "127.0.0.1:0", "--board", "generic", "--data", str(folder / "data")]
    host_tls = None
    if tls:
        host_tls = _certificates(folder)
        arguments += ["--tls", str(folder / "agent-tls")]
    command = [sys.executable, "-m", "agents", "serve", *arguments, "--exit-on-stdin-eof", "--ready-json"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("{"):
                message = f"the agent did not start: {line.strip() or 'it said nothing'}"
                raise RuntimeError(message)
            ready = json.loads(line)
            yield RunningAgent(str(ready["listening"]), process.pid, started, host_tls)
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _certificates(folder: Path) -> Path:
    """A lab of one agent and one host; the host's folder."""
    host = folder / "host-tls"
    if not host.exists():
        create_lab(folder / "lab", "bench")
        issue_agent(folder / "lab", "agent", ["127.0.0.1", "localhost"], folder / "agent-tls")
        issue_host(folder / "lab", "host", host)
    return host


def open_channel(address: str, tls: Path | None) -> grpc.Channel:
    """A channel made as the host makes it."""
    parsed = Address.parse("bench", address, tls=tls)
    credentials = open_link(parsed, deadline=time.monotonic() + REACH_S, stop=threading.Event())
    if credentials is None:
        return grpc.insecure_channel(parsed.grpc_target, CHANNEL_OPTIONS)
    return grpc.secure_channel(parsed.grpc_target, credentials, CHANNEL_OPTIONS)


@contextmanager
def client(address: str, tls: Path | None) -> Iterator[AgentClient]:
    """A connected client."""
    with AgentClient("bench", open_channel(address, tls)) as agent:
        agent.await_serving(REACH_S)
        yield agent
