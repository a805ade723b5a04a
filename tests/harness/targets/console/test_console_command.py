"""`quantrig targets console` as a process: keys through a real terminal, and one line awaited by a script."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.targets.console.terminal import Screen, interact
from harness.targets.console.watch import ConsoleWatch
from harness.targets.target import Console
from tests.harness.targets.console.lines import Line, TcpConsole

QUANTRIG = [sys.executable, "-m", "harness", "targets", "console"]


@pytest.fixture
def lab(tmp_path: Path, line: Line) -> Path:
    path = tmp_path / "targets.yaml"
    path.write_text(
        f"targets:\n  pi: {{board: generic, via: local, console: {{url: {line.path}}}}}\n"
        "  bare: {board: generic, via: local}\n"
    )
    return path


def run(*arguments: str, lab: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUANTRIG, *arguments, "--lab", str(lab)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_line_that_comes_and_one_that_does_not(lab: Path, line: Line, state_home: Path) -> None:
    line.say(b"\x1b[1mraspberrypi login: ")  # waits in the line until somebody opens it
    found = run("pi", "--expect", r"^\w+ login:", "--timeout", "20", lab=lab)
    assert (found.returncode, found.stdout, found.stderr) == (0, "raspberrypi login:\n", "")
    missed = run("pi", "--expect", "never", "--timeout", "0.3", "--json", lab=lab)
    assert missed.returncode == 3
    result = json.loads(missed.stdout)
    assert (result["found"], result["line"], result["target"]) == (False, None, "pi")
    log = state_home / "quantrig/consoles/pi.log"
    assert missed.stderr == f"error: pi: no line with /never/ within 0.3 s; it said nothing; log: {log}\n"
    assert re.search(r"Z raspberrypi login:$", log.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bare"], "bare: no console; add `console: {url: /dev/ttyUSB0}` to it in targets.yaml"),
        (["pi", "--expect", "("], "--expect '(' is no regular expression"),
        (["pi", "--json"], "--json needs --expect"),
        (["pi", "--timeout", "0"], "--timeout 0: give seconds above 0"),
        (["pie"], "no target 'pie'; did you mean 'pi'?"),
    ],
)
def test_mistakes(lab: Path, arguments: list[str], said: str) -> None:
    from typer.testing import CliRunner

    from harness.cli.main import app

    result = CliRunner().invoke(app, ["targets", "console", *arguments, "--lab", str(lab)])
    assert result.exception is not None
    assert said in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 2


def test_a_terminal_passes_every_key_on_and_comes_back_as_it_was(lab: Path, line: Line) -> None:
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        [*QUANTRIG, "pi", "--lab", str(lab)], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    shown = _read_until(keyboard, b"Ctrl-] ends")
    line.say(b"raspberrypi login: ")
    shown = _read_until(keyboard, b"login: ")
    os.write(keyboard, b"pi\r\x03\x1a\x04\x1b[A")  # Ctrl-C, Ctrl-Z, Ctrl-D and a cursor key are the board's
    assert line.heard(9) == b"pi\r\x03\x1a\x04\x1b[A"
    line.say(b"\x1b[31mred\x1b[0m\xff\r\n")
    shown = _read_until(keyboard, b"\xff")
    assert b"\x1b[31mred\x1b[0m\xff" in shown
    os.write(keyboard, b"x\x1d")
    assert process.wait(60) == 0
    assert line.heard(1) == b"x"
    assert termios.tcgetattr(terminal) == before
    for end in (keyboard, terminal):
        os.close(end)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_session_that_is_ended_from_outside_leaves_the_terminal_as_it_was(
    lab: Path, line: Line, number: signal.Signals
) -> None:
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        [*QUANTRIG, "pi", "--lab", str(lab)], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    _read_until(keyboard, b"Ctrl-] ends")
    assert termios.tcgetattr(terminal) != before
    process.send_signal(number)
    assert process.wait(60) == 0
    assert termios.tcgetattr(terminal) == before
    for end in (keyboard, terminal):
        os.close(end)


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        found += os.read(descriptor, 4096)
    return found


@pytest.fixture
def keys() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_ends_a_session(tcp: TcpConsole, tmp_path: Path, keys: tuple[int, int]) -> None:
    pressed, key = keys
    stop = threading.Event()
    with ConsoleWatch("pi", Console(tcp.url), tmp_path / "log") as watch:
        board = tcp.accept()
        assert interact(watch, pressed, timeout_s=0.05) == "timeout"
        os.write(key, b"a\x1db")
        assert interact(watch, pressed, timeout_s=60) == "key"
        assert board.recv(10) == b"a"
        stop.set()
        assert interact(watch, pressed, timeout_s=60, stop=stop) == "stop"
        with open(os.devnull, "rb") as nothing:
            assert interact(watch, nothing.fileno(), timeout_s=60) == "input"


def test_a_screen_whose_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Screen(writer)(b"said")
    os.close(writer)
