"""The supervisor of boards without systemd: real processes, started and ended as on a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.targets.ssh.board_state import board_program

#: An agent that notes its life and lives until its stdin or a signal ends it.
STEADY = "import os,sys; print('begun', os.getpid(), flush=True); sys.stdin.read(); print('stdin ended', flush=True)"


class Board:
    """A folder as provisioning leaves it, and its supervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir(parents=True)
        (self.run / "supervise.py").write_text(board_program("supervise"))

    def command(self, program: str) -> None:
        (self.run / "supervisor.json").write_text(json.dumps({"command": [sys.executable, "-c", program]}))

    def __call__(self, action: str) -> int:
        command = [sys.executable, "-I", str(self.run / "supervise.py"), str(self.folder), action]
        return subprocess.run(command, check=False, timeout=120).returncode

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.run / "supervisor.lock").read_text()))

    def agent(self) -> psutil.Process:
        """The agent, whose number is written a moment after its start."""
        path = self.run / "agent.pid"
        until(lambda: path.exists() and path.read_text().endswith("\n"))
        return psutil.Process(int(path.read_text()))

    def log(self) -> str:
        try:
            return (self.run / "agent.log").read_text()
        except FileNotFoundError:
            return ""


def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.02)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path / "agent")
    yield made
    made("stop")


def test_it_starts_once_and_stops_with_its_agent(board: Board) -> None:
    board.command(STEADY)
    assert board("status") == 1
    assert board("start") == 0
    first = board.supervisor().pid
    assert board("start") == 0
    assert board.supervisor().pid == first
    assert board("status") == 0
    until(lambda: "begun" in board.log())
    agent = board.agent()
    assert agent.ppid() == first
    assert os.getsid(first) == first  # of no terminal and no login
    assert board("stop") == 0
    assert not agent.is_running()
    until(lambda: not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
    assert board("status") == 1
    assert board("stop") == 0  # twice is once


def test_an_agent_that_ends_is_started_again_after_growing_pauses(board: Board) -> None:
    board.command("import time; print('begun', time.monotonic(), flush=True); raise SystemExit(7)")
    board("start")
    until(lambda: board.log().count("begun") >= 3)
    began = [float(line.split()[1]) for line in board.log().splitlines() if line.startswith("begun")]
    assert began[1] - began[0] >= 1.0
    assert began[2] - began[1] >= 2.0
    assert "the agent ended with status 7" in board.log()


def test_a_killed_agent_comes_back(board: Board) -> None:
    board.command(STEADY)
    board("start")
    until(lambda: board.log().count("begun") == 1)
    board.agent().kill()
    until(lambda: board.log().count("begun") == 2)
    assert "the agent ended with status -9" in board.log()


def test_the_agent_does_not_outlive_a_killed_supervisor(board: Board) -> None:
    board.command(STEADY)
    board("start")
    until(lambda: "begun" in board.log())
    board.supervisor().kill()
    until(lambda: "stdin ended" in board.log())
    assert board("start") == 0  # its lock went with it
    until(lambda: board.log().count("begun") == 2)


def test_an_agent_that_cannot_be_started_is_in_the_log(board: Board) -> None:
    (board.run / "supervisor.json").write_text(json.dumps({"command": ["/no/such/agent"]}))
    board("start")
    until(lambda: "cannot be started" in board.log())
    assert board("status") == 0


def test_a_stubborn_agent_is_killed(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    script = board.run / "supervise.py"
    script.write_text(script.read_text().replace("STOP_S = 15.0", "STOP_S = 0.5"))
    board.command(
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
    )
    board("start")
    until(lambda: "begun" in board.log())
    agent = board.agent()
    assert board("stop") == 0
    assert not agent.is_running()


def test_a_long_log_is_set_aside(board: Board) -> None:
    (board.run / "agent.log").write_bytes(b"x" * ((1 << 20) + 1))
    board.command(STEADY)
    board("start")
    until(lambda: "begun" in board.log())
    assert len(board.log()) < 1000
    assert (board.run / "agent.log.old").stat().st_size == (1 << 20) + 1
