"""A board that dies in the middle of a run: power brings it back and the run goes on, or it is set aside."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.test_survival import blocks_of
from tests.e2e.whole_run import Agent, Bench, wait_for

BOOT = (
    b"\r\nU-Boot 2023.04 (Apr 03 2023 - 20:38:50 +0000)\r\nStarting kernel ...\r\n"
    b"[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\r\n"
    b"\r\nDebian GNU/Linux 12 bench ttyAMA0\r\n\r\nbench login: "
)
PANIC = b"[  353.498700] Kernel panic - not syncing: Fatal exception in interrupt\r\n"

#: The lab's power command: tells the board's supply what to do and waits for its word.
SWITCH = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as supply:
    supply.sendall(sys.argv[2].encode() + b"\\n")
    print(supply.makefile().readline().strip())
"""


class Board:
    """An agent with a power supply and a serial console; `dead` boards do not start any more."""

    def __init__(self, agents: Callable[..., Agent]) -> None:
        self._agents = agents
        self.agent = agents("board")
        self.dead = False
        self.switched: list[str] = []
        self._console, self._tty = os.openpty()
        self.console = os.ttyname(self._tty)
        self._supply = socket.create_server(("127.0.0.1", 0))
        self.supply = self._supply.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def say(self, data: bytes) -> None:
        os.write(self._console, data)

    def _serve(self) -> None:
        while True:
            try:
                asked, _ = self._supply.accept()
            except OSError:
                return
            with asked, asked.makefile("rw") as file:
                action = file.readline().strip()
                self.switched.append(action)
                if action == "off":
                    self.agent.kill()
                elif not self.dead:
                    self.say(BOOT)
                    self.agent = self._agents("board", int(self.agent.address.rsplit(":", 1)[1]))
                file.write(f"relay {action}\n")

    def close(self) -> None:
        self._supply.close()
        for end in (self._console, self._tty):
            with contextlib.suppress(OSError):
                os.close(end)


@pytest.fixture
def board(bench: Bench, agents: Callable[..., Agent]) -> Iterator[Board]:
    made = Board(agents)
    switch = bench.folder / "switch.py"
    switch.write_text(SWITCH)
    command = f"{sys.executable} switch.py {made.supply}"
    bench.write_lab(
        f"targets:\n  far:\n    board: generic\n    environment: cpu\n    via: {{address: '{made.agent.address}'}}\n"
        f"    power: {{on: '{command} on', off: '{command} off', wait_s: 0.2}}\n"
        f"    console: {{url: {made.console}, boot_timeout_s: 4}}\n"
    )
    yield made
    made.close()


def kept(bench: Bench, name: str) -> str:
    return (bench.out / "logs/far" / name).read_text()


@pytest.mark.slow
def test_power_brings_a_board_back_and_the_run_goes_on(bench: Bench, board: Board) -> None:
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    wait_for(lambda: blocks_of(bench, "far") >= 3, "the first timed blocks")
    before = blocks_of(bench, "far")
    board.say(PANIC)
    board.agent.kill()
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors + said
    target = bench.target("far")
    assert target["status"] == "done"
    assert board.switched == ["off", "on"]
    assert [(step["name"], step["outcome"]) for step in target["recovery"]] == [
        ("reconnect", "skipped"),
        ("restart agent", "skipped"),
        ("reboot", "skipped"),
        ("power cycle", "done"),
        ("watch console", "done"),
        ("reconnect", "done"),
    ]
    assert target["recovery"][0]["detail"] == "its kernel has stopped: kernel panic: Fatal exception in interrupt"
    assert target["recovery"][4]["detail"].startswith("login prompt after ")
    (note,) = (note for note in target["notes"] if note.startswith("the board was lost during the run"))
    assert "kernel panic: Fatal exception in interrupt" in note
    assert "recovered by power cycle after" in note
    pairs = sorted(block["pair"] for block in target["blocks"])
    assert pairs == sorted(2 * list(range(max(pairs) + 1)))
    assert len(pairs) >= before
    assert "Kernel panic - not syncing" in kept(bench, "console.log")
    assert "Z far off: done" in kept(bench, "power.log")


@pytest.mark.slow
def test_a_board_that_stays_dead_is_set_aside_until_it_is_released(bench: Bench, board: Board) -> None:
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    wait_for(lambda: blocks_of(bench, "far") >= 1, "the first timed block")
    board.dead = True
    board.agent.kill()
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors + said
    target = bench.target("far")
    assert target["status"] == "crashed"
    assert [step["name"] for step in target["recovery"]][-1] == "quarantine"
    assert "not recovered within" in target["error"]

    board.dead = False
    bench.quantrig("targets", "power", "far", "cycle")
    listed = json.loads(bench.quantrig("targets", "list", "--json").stdout)
    assert "the agent stopped answering" in listed[0]["quarantine"]
    (checked,) = json.loads(bench.quantrig("targets", "check", "--json", code=3).stdout)
    assert checked["reachable"]  # it is back, and still nobody has looked at it
    assert checked["problem"].startswith("quarantined since ")
    bench.quantrig("resume", bench.run_id(), code=3)
    assert bench.target("far")["status"] == "quarantined"

    assert "far: released" in bench.quantrig("targets", "release", "far").stdout
    bench.quantrig("resume", bench.run_id())
    assert bench.target("far")["status"] == "done"


def test_without_means_a_lost_board_ends_as_it_always_did(bench: Bench, agents: Callable[..., Agent]) -> None:
    agent = agents("board")
    bench.write_lab(f"targets: {{far: {{board: generic, environment: cpu, via: {{address: '{agent.address}'}}}}}}")
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    wait_for(lambda: blocks_of(bench, "far") >= 1, "the first timed block")
    agent.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert bench.target("far")["status"] == "crashed"
    assert bench.target("far")["recovery"] == []
