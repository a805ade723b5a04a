"""Lines and boards for the tests of consoles."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.targets.console.watch import ConsoleWatch
from harness.targets.target import Console
from tests.harness.targets.console.lines import Board, Line, Rfc2217Server, TcpConsole, Watch

FAKE_BOARD = Path(__file__).with_name("fake_board.py")


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks and logs of a test stay below its own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def line() -> Iterator[Line]:
    board, tty = os.openpty()
    path = os.ttyname(tty)
    os.set_blocking(board, True)
    yield Line(board, path)
    for end in (board, tty):
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """`with watch(url) as w`."""

    def make(url: str, **fields: object) -> ConsoleWatch:
        spec = Console(url, **{name: fields.pop(name) for name in ("baud", "prompt") if name in fields})  # type: ignore[arg-type]
        return ConsoleWatch("bench", spec, tmp_path / "console.log", **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def board() -> Iterator[Board]:
    process = subprocess.Popen(
        [sys.executable, str(FAKE_BOARD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield Board(process, process.stdout.readline().strip())
    process.kill()
    process.communicate()


@pytest.fixture
def tcp() -> Iterator[TcpConsole]:
    server = TcpConsole()
    yield server
    server.close()


@pytest.fixture
def rfc2217(line: Line) -> Iterator[tuple[Rfc2217Server, Line]]:
    server = Rfc2217Server(line.path)
    yield server, line
    server.close()
