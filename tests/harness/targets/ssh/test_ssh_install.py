"""Wheels and environments on a 'board', without a network: a small agent of the test's, Python's own copy of pip."""

from __future__ import annotations

import dataclasses
import ensurepip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.sftp_server import SftpServer
from harness.errors import BoardError
from harness.targets.ssh.board_state import BoardState, board_program, read_state
from harness.targets.ssh.bundle import Bundle, sha256
from harness.targets.ssh.install import Installer, Release, plan_release
from harness.targets.ssh.layout import Layout
from harness.targets.ssh.report import BoardPython
from harness.targets.ssh.session import CommandFailed, Session, open_session
from harness.targets.target import Target
from tests.harness.targets.ssh.conftest import agent_wheel, login

MakeBoard = Callable[..., Target]
pytestmark = pytest.mark.usefixtures("known")
PYTHON = BoardPython(os.path.realpath(sys.executable), sys.version_info[:3], "x86_64", 64, (2, 36), True, True)


def bundle(agent: Path) -> Bundle:
    bundled = Path(ensurepip.__file__).parent / "_bundled"
    found = sorted(bundled.glob("pip-*.whl"))
    if not found:
        pytest.skip("this Python brings no pip")
    return Bundle(agent, {path: sha256(path) for path in (agent, found[0])}, found[0], (agent.name,), "0.1.0")


class Board:
    """A claimed folder and what works on it."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.layout = Layout(str(folder), "supervisor", (), None, "127.0.0.1:1", False, 1)
        self.installer = Installer(session, self.layout, sys.executable)
        self.folder = folder
        subprocess.run(
            [sys.executable, "-I", "-", str(folder), '{"kind": "supervisor"}'],
            input=board_program("claim"), text=True, check=True,
        )  # fmt: skip

    def state(self) -> BoardState:
        return read_state(self.session, sys.executable, str(self.folder), (), ())

    def install(self, release: Release) -> None:
        state = self.state()
        self.installer.send(release.bundle.wheels, state, lambda *_: None)
        self.installer.install(release)


def test_a_release_is_made_from_the_boards_wheels_alone(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path
) -> None:
    release = plan_release(bundle(agent_wheel(tmp_path)), PYTHON, system_site_packages=False)
    with open_session(make_board(login(sshd))) as session:
        board = Board(session, tmp_path / "agent folder")
        board.install(release)
        state = board.state()
        assert state.releases == {release.name: True}
        assert set(state.wheels.values()) == set(release.bundle.wheels.values())
        board.installer.switch(release.name)
        board.installer.accept(release.name)
        state = board.state()
        assert state.current == state.accepted == release.name
        said = session.run([board.layout.agent]).out
    assert said == "quantrig-agent 0\n"
    imported = subprocess.run(
        [str(tmp_path / "agent folder/current/venv/bin/python"), "-c", "import numpy"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "No module named 'numpy'" in imported.stderr  # its own environment


@pytest.mark.parametrize(
    ("venv", "system"),
    [
        pytest.param(False, False, marks=pytest.mark.slow),
        (False, True),
        pytest.param(True, True, marks=pytest.mark.slow),  # a Jetson with python3-venv: TensorRT's bindings are seen
    ],
)
def test_the_environment_sees_the_systems_packages_where_asked_for_also_when_made_by_hand(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path, venv: bool, system: bool
) -> None:
    python = dataclasses.replace(PYTHON, venv=venv)
    release = plan_release(bundle(agent_wheel(tmp_path)), python, system_site_packages=system)
    with open_session(make_board(login(sshd))) as session:
        board = Board(session, tmp_path / "agent")
        board.install(release)
        home = tmp_path / "agent" / "releases" / release.name / "venv"
        facts = "import sys,sysconfig; print(sys.prefix, sys.prefix != sys.base_prefix, *sys.path, sep='\\n')"
        prefix, inside, *path = session.run([str(home / "bin/python"), "-c", facts]).out.splitlines()
    assert (prefix, inside) == (str(home), "True")
    assert (any(one.startswith(sys.base_prefix) and one.endswith("-packages") for one in path)) == system


def test_names_follow_content(tmp_path: Path) -> None:
    one = bundle(agent_wheel(tmp_path))
    name = plan_release(one, PYTHON, system_site_packages=False).name
    assert name == plan_release(one, PYTHON, system_site_packages=False).name
    assert name.startswith("0.1.0-")
    (tmp_path / "b").mkdir()
    other = bundle(agent_wheel(tmp_path / "b", program="print('another')"))
    newer = dataclasses.replace(PYTHON, version=(3, 13, 0))
    names = {
        name,
        plan_release(other, PYTHON, system_site_packages=False).name,
        plan_release(one, PYTHON, system_site_packages=True).name,
        plan_release(one, newer, system_site_packages=False).name,
    }
    assert len(names) == 4


def test_an_upload_goes_on_where_it_broke_off_and_damage_is_noticed(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path
) -> None:
    wheels = bundle(agent_wheel(tmp_path)).wheels
    (pip,) = [path for path in wheels if path.name.startswith("pip-")]
    digest = wheels[pip]
    whole = pip.read_bytes()
    with open_session(make_board(login(sshd))) as session:
        board = Board(session, tmp_path / "agent")
        part = tmp_path / "agent" / "wheels" / f"{pip.name}.{digest[:12]}.part"
        part.write_bytes(whole[:1_000_000])
        seen: list[int] = []
        board.installer.send({pip: digest}, board.state(), lambda _name, _size, sent: seen.append(sent))
        assert min(seen) > 1_000_000
        assert board.state().wheels == {pip.name: digest}
        # What lay there was not the beginning of this file: it is sent once more, whole.
        part.write_bytes(b"\0" * 1_000_000)
        seen.clear()
        board.installer.send({pip: digest}, board.state(), lambda _name, _size, sent: seen.append(sent))
        assert min(seen) < 1_000_000
        assert board.state().wheels == {pip.name: digest}
        assert not board.state().parts
        with pytest.raises(BoardError, match="arrived damaged on the board twice"):
            board.installer.send({pip: "0" * 64}, board.state(), lambda *_: None)


def test_an_agent_that_cannot_even_be_imported_is_not_a_release(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path
) -> None:
    wheel = agent_wheel(tmp_path, program="import no_such_module")
    release = plan_release(bundle(wheel), PYTHON, system_site_packages=False)
    with open_session(make_board(login(sshd))) as session:
        board = Board(session, tmp_path / "agent")
        with pytest.raises(CommandFailed, match="No module named 'no_such_module'"):
            board.install(release)
        assert board.state().releases == {release.name: False}
        assert board.state().current is None


def test_too_little_room_is_said_before_the_first_byte(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    release = plan_release(bundle(agent_wheel(tmp_path)), PYTHON, system_site_packages=False)
    with open_session(make_board(login(sshd))) as session:
        board = Board(session, tmp_path / "agent")
        state = dataclasses.replace(board.state(), free_bytes=3 << 20)
        with pytest.raises(BoardError, match=r"has 3 MiB free, the agent needs \d+"):
            board.installer.check_space(release, state)


def test_only_what_was_made_is_noted(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    folder = tmp_path / "there" / "new" / "agent"
    for kind in ("supervisor", "system", "system"):
        subprocess.run(
            [sys.executable, "-I", "-", str(folder), json.dumps({"kind": kind, "unit": None}), str(tmp_path / "there")],
            input=board_program("claim"), text=True, check=True,
        )  # fmt: skip
    claim = json.loads((folder / "quantrig.json").read_text())
    assert claim["made"] == [str(tmp_path / "there" / "new"), str(folder)]
    assert claim["former"] == {"kind": "supervisor", "unit": None}  # until that service has been ended
