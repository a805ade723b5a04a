"""Commands and files over a real connection."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.sftp_server import SftpServer
from harness.errors import BoardError, Offline, TimedOut
from harness.targets.ssh.session import CommandFailed, Session, open_session
from harness.targets.target import Target
from tests.harness.targets.ssh.conftest import login

MakeBoard = Callable[..., Target]
pytestmark = pytest.mark.usefixtures("known")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_reach_the_board_as_they_are(sshd: SftpServer, make_board: MakeBoard, words: list[str]) -> None:
    with open_session(make_board(login(sshd))) as session:
        done = session.run(["printf", "%s\\0", *words], quiet=True)
    assert done.out.split("\0")[:-1] == words


def test_lines_come_while_the_command_still_runs_and_are_kept(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    heard: list[str] = []
    first = threading.Event()

    def tell(line: str) -> None:
        heard.append(line)
        first.set()

    def open_gate() -> None:
        if first.wait(60):
            gate.write_text("second\n")

    threading.Thread(target=open_gate, daemon=True).start()
    log = tmp_path / "logs" / "board.log"
    with open_session(make_board(login(sshd)), log=log, tell=tell) as session:
        # Ends only if the first line was heard before: what opens the gate waits for it.
        session.run(["sh", "-c", f"echo first; cat {gate}; printf 'third \\033[31mred' >&2; exit 0"])
    # stdout and stderr are two streams: only the order within one is certain
    assert [line for line in heard if "third" not in line] == ["first", "second"]
    assert len(heard) == 3
    assert "\x1b" not in "".join(heard)
    lines = log.read_text().splitlines()
    kinds = [line.split()[1] for line in lines]
    assert kinds[0] == "$"
    assert sorted(kinds[1:]) == ["err", "out", "out"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_failing_command_is_one_line(sshd: SftpServer, make_board: MakeBoard) -> None:
    with open_session(make_board(login(sshd))) as session:
        with pytest.raises(CommandFailed, match=r"bench: `sh -c .* on the board failed: two$"):
            session.run(["sh", "-c", "echo one; echo two >&2; exit 3"])
        assert session.run(["sh", "-c", "exit 3"], check=False).status == 3


def test_a_command_without_end_is_given_up(sshd: SftpServer, make_board: MakeBoard) -> None:
    began = time.monotonic()
    with open_session(make_board(login(sshd))) as session, pytest.raises(TimedOut):
        session.run(["sleep", "60"], timeout_s=0.3)
    assert time.monotonic() - began < 50


def test_files_arrive_whole_with_their_mode(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    path = tmp_path / "a name with 'quotes' and $HOME"
    with open_session(make_board(login(sshd))) as session:
        session.put(content, str(path), mode=0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        session.put(b"shorter", str(path), mode=0o644)
        with pytest.raises(CommandFailed):
            session.put(b"x", str(tmp_path / "absent" / "file"), mode=0o600)
    assert path.read_bytes() == b"shorter"
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".new")] == []


def test_the_rest_of_a_file_is_sent_from_where_it_ended(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    there = tmp_path / "there"
    there.write_bytes(source.read_bytes()[:700_001])
    seen: list[int] = []
    with open_session(make_board(login(sshd))) as session:
        session.run(
            ["sh", "-c", 'cat >>"$1"', "sh", str(there)], stdin=source, skip_bytes=700_001, progress=seen.append
        )
    assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert seen[0] > 700_001
    assert seen[-1] == 1 << 20


def test_a_connection_that_dies_is_offline(sshd: SftpServer, make_board: MakeBoard) -> None:
    with open_session(make_board(login(sshd))) as session:
        parent = int(session.run(["sh", "-c", "echo $PPID"]).out)
        threading.Timer(0.3, psutil.Process(parent).kill).start()  # this connection's half of the server
        with pytest.raises(Offline):
            session.run(["sleep", "100"], timeout_s=90)


def test_a_lock_lives_as_long_as_its_connection(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    from harness.targets.ssh.claim import LOCK

    path = tmp_path / "lock"
    path.touch()
    command = ["python3", "-c", LOCK, str(path)]

    def try_it(session: Session) -> None:
        with session.holding(command):
            pass

    with (
        open_session(make_board(login(sshd))) as one,
        open_session(make_board(login(sshd))) as other,
        one.holding(command),
        pytest.raises(BoardError, match="another provisioning of this board is under way"),
    ):
        try_it(other)
    with open_session(make_board(login(sshd))) as third:
        deadline = time.monotonic() + 60
        while True:  # the server ends the lock's process a moment after the connection
            try:
                try_it(third)
                break
            except BoardError:
                assert time.monotonic() < deadline
