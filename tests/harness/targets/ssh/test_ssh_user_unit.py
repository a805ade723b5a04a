"""A board whose login has a systemd of its own: the whole life there, with a stand-in for systemd's commands."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness._version import __version__
from harness.errors import BoardError
from harness.targets.connect import connect
from harness.targets.ssh.bundle import build_agent_wheel
from harness.targets.ssh.hostkeys import fingerprint
from harness.targets.ssh.provision import Wishes, provision
from harness.targets.ssh.service import restart_agent
from harness.targets.ssh.unprovision import unprovision
from harness.targets.target import Ssh, Target, Via
from tests.harness.targets.ssh.conftest import broken_agent
from tests.harness.targets.ssh.password_server import password_server

ROOT = Path(__file__).parents[4]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # took 65 s beside seven other builds
UNIT = "quantrig-agent.service"


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are fetched once for all tests that need them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "wheel-cache"))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A login with a home, a systemd and nothing else."""
    home, tools, state = (tmp_path / name for name in ("board-home", "tools", "state"))
    for folder in (home, tools, state):
        folder.mkdir()
    stand_in = Path(__file__).with_name("stand_in_systemd.py")
    for name in ("systemctl", "journalctl", "loginctl"):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} {name} "$@"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("QUANTRIG_SSH_PASSWORD_BENCH", "secret")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with password_server("secret") as server:
        path = f"{tools}:{os.environ['PATH']}"
        server.environment = {"HOME": str(home), "PATH": path, "STAND_IN": str(state), "USER": "lab"}
        ssh = Ssh("127.0.0.1", "lab", port=server.port, host_key=fingerprint(server.key), python=sys.executable,
                  service="user")  # fmt: skip
        via = Via("address", f"127.0.0.1:{port}", tmp_path / "lab")
        target = Target("bench", "generic", "cpu", via, tmp_path, ssh=ssh)
        yield target
        unprovision(target)


def test_a_logins_own_unit_is_started_upgraded_rolled_back_and_removed(board: Target, tmp_path: Path) -> None:
    home, state = tmp_path / "board-home", tmp_path / "state"
    real = build_agent_wheel(ROOT / "agents")  # one, although somebody may be editing it
    first = provision(board, Wishes(agent_wheel=real), log=tmp_path / "log")
    assert first.service == "user"
    assert first.folder == f"{home}/.local/share/quantrig-agent"
    unit = home / ".config" / "systemd" / "user" / UNIT
    assert unit.is_file()
    assert (state / f"{UNIT}.enabled").exists()
    assert (state / "linger").exists()  # it lives without a session
    with connect(board, work_dir=tmp_path) as agent:
        assert agent.describe().agent_version == __version__
    assert not provision(board, Wishes(agent_wheel=real)).changed

    with pytest.raises(
        BoardError, match=r"it said: AssertionError: broken on purpose; the one before it .* serves again"
    ):
        provision(board, Wishes(agent_wheel=broken_agent(tmp_path, "0.9.3")))
    restart_agent(board)
    provision(board, Wishes(agent_wheel=real))  # waits until the restarted one serves
    with connect(board, work_dir=tmp_path) as agent:
        assert agent.describe().agent_version == __version__

    unprovision(board)
    assert not unit.exists()
    assert not (state / "linger").exists()  # it was our doing
    assert not (state / f"{UNIT}.enabled").exists()
    assert not {".local", ".config"} & {path.name for path in home.iterdir()}  # what was made for it went with it
