"""Agents as processes of this machine: nothing left behind, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from harness.errors import Unreachable
from harness.targets.connect import connect
from harness.targets.errors_map import CallCancelled
from harness.targets.spawn import Interpreter, safe_name, spawned_agent
from harness.targets.target import Target
from tests.harness.targets.conftest import agents_of

MakeTarget = Callable[..., Target]


def gone(processes: list[psutil.Process], timeout_s: float = 60.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return all(p.status() == psutil.STATUS_ZOMBIE for p in alive)


def test_no_process_is_left_behind(make_target: MakeTarget, matmul_model: Callable[..., Path], tmp_path: Path) -> None:
    path = matmul_model()
    digest = sha256(path.read_bytes()).hexdigest()
    with connect(make_target("local"), work_dir=tmp_path / "work") as client:
        client.ship(path, digest)
        client.prepare(digest)
        (agent,) = agents_of(psutil.Process())
        family = [agent, *agent.children(recursive=True)]
        assert len(family) >= 2  # the agent and the network's own process
        assert os.getsid(agent.pid) == agent.pid  # the terminal's Ctrl-C does not reach it
    assert gone(family)
    assert (tmp_path / "work" / "bench" / "agent.log").exists()


def test_killed_agent_leaves_no_network_process(
    make_target: MakeTarget, matmul_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = matmul_model()
    digest = sha256(path.read_bytes()).hexdigest()
    with connect(make_target("local"), work_dir=tmp_path / "work") as client:
        client.ship(path, digest)
        client.prepare(digest)
        (agent,) = agents_of(psutil.Process())
        family = [agent, *agent.children(recursive=True)]
        agent.send_signal(signal.SIGKILL)
    assert gone(family)


def test_stubborn_agent_is_killed_in_the_end(
    make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.targets.spawn.END_TIMEOUT_S", 1.0)
    with connect(make_target("local"), work_dir=tmp_path / "work"):
        (agent,) = agents_of(psutil.Process())
        agent.suspend()  # hears neither the end of stdin nor SIGTERM
        begun = time.monotonic()
    assert gone([agent])
    assert time.monotonic() - begun < 60


HOST = """
import sys, threading
from pathlib import Path
from harness.targets.spawn import spawned_agent
with spawned_agent("bench", "generic", emulated=True, work_dir=Path(sys.argv[1]), stop=threading.Event()) as (agent, _):
    print(agent.pid, flush=True)
    sys.stdin.read()
"""


def test_agent_ends_when_its_host_is_killed(tmp_path: Path) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    agent = psutil.Process(int(host.stdout.readline()))
    host.kill()
    host.wait(60)
    assert gone([agent])
    # And the next host, at once, gets the target's own directory again.
    with spawned_agent("bench", "generic", emulated=True, work_dir=tmp_path, stop=threading.Event()) as (second, _):
        assert _data_folder(second.pid).parent.name == "agents"


def _data_folder(pid: int) -> Path:
    arguments = psutil.Process(pid).cmdline()
    return Path(arguments[arguments.index("--data") + 1])


def test_second_run_at_the_same_time_gets_a_private_folder(tmp_path: Path, cache_home: Path) -> None:
    stop = threading.Event()
    with (
        spawned_agent("bench", "generic", emulated=True, work_dir=tmp_path, stop=stop) as (first, _),
        spawned_agent("bench", "generic", emulated=True, work_dir=tmp_path, stop=stop) as (second, _),
    ):
        own, private = _data_folder(first.pid), _data_folder(second.pid)
        assert own == cache_home / "quantrig" / "agents" / "bench"
        assert private != own
        assert private.exists()
    assert own.exists()
    assert not private.exists()


@pytest.mark.parametrize(("kind", "limited"), [("auto", False), ("rlimit", True)])
def test_private_memory_is_limited_from_outside_only_where_groups_cannot(
    tmp_path: Path, kind: str, *, limited: bool
) -> None:
    command = ("sh", "-c", f'exec "{sys.executable}" "$@" --memory-limit {kind}', "sh")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    python = Interpreter(command, environment, data_limit_bytes=4 << 30)
    with spawned_agent(
        "bench", "generic", emulated=True, work_dir=tmp_path, stop=threading.Event(), interpreter=python
    ) as (agent, _):
        if kind == "auto" and not agent.memory_limit.startswith("cgroup-"):
            pytest.skip("no writable memory controller here")
        found = psutil.Process(agent.pid).rlimit(psutil.RLIMIT_DATA)
        assert (found == (4 << 30, 4 << 30)) == limited


def test_agent_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(Unreachable, match=r"did not start: exit status 2, last words: .*--board"),
        spawned_agent("bench", "No Such Board", emulated=True, work_dir=tmp_path, stop=threading.Event()),
    ):
        pass


def test_stop_ends_the_wait_for_a_start(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    before = {p.pid for p in psutil.Process().children()}
    with (
        pytest.raises(CallCancelled),
        spawned_agent("bench", "generic", emulated=True, work_dir=tmp_path, stop=stop),
    ):
        pass
    assert {p.pid for p in psutil.Process().children()} <= before


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".hidden", "", "x" * 500, "nul\0"])
def test_names_become_harmless_file_names(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()
    assert len(safe) <= 100


def test_agent_listens_on_loopback_only(make_target: MakeTarget, tmp_path: Path) -> None:
    with connect(make_target("local"), work_dir=tmp_path / "work"):
        (agent,) = agents_of(psutil.Process())
        listening = [
            c.laddr.ip.removeprefix("::ffff:") for c in agent.net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ]
    assert listening == ["127.0.0.1"]
