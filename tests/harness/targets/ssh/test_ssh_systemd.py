"""The hardened unit under a real systemd: what its own tools judge on paper, at work."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sftp_server import SftpServer
from harness.errors import BoardError
from harness.targets.board_settings import Settings
from harness.targets.connect import connect
from harness.targets.ssh.provision import Provisioned, Wishes, provision
from harness.targets.ssh.unprovision import unprovision
from harness.targets.target import Target, Via
from tests.harness.targets.ssh.conftest import MakeBoard, broken_agent, login
from tests.labs.systemd_board import asked_for, systemd_board

pytestmark = [pytest.mark.slow, asked_for, pytest.mark.timeout(900)]
PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[SftpServer]:
    with systemd_board(tmp_path / "systemd") as server:
        yield server


@pytest.fixture
def board(systemd: SftpServer, make_board: MakeBoard, tmp_path: Path, free_port: int) -> Target:
    if not PYTHON.exists():
        pytest.skip("the board needs the distribution's own Python")
    public = (tmp_path / "systemd" / "host-key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{systemd.port} {public}")
    ssh = login(systemd, python=str(PYTHON))
    return make_board(ssh, via=Via("address", f"127.0.0.1:{free_port}", tmp_path / "tls"))


@pytest.fixture
def say(systemd: SftpServer) -> Callable[[str], str]:
    """`say(command)`: what a shell of the board prints."""

    def ask(command: str) -> str:
        words = ["ssh", "-i", str(systemd.key), "-p", str(systemd.port), "-o", "StrictHostKeyChecking=no"]
        words += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@127.0.0.1", command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120).stdout.strip()

    return ask


def test_the_agent_serves_falls_back_and_goes(
    board: Target, say: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def provisioned(target: Target, wheel: Path | None = None) -> Provisioned:
        return provision(target, Wishes(agent_wheel=wheel))

    def unit(name: str) -> str:
        return say(f"systemctl show --value -p {name} quantrig-agent")

    done = provisioned(board)
    assert done.service == "system"
    assert (unit("ActiveState"), unit("DynamicUser")) == ("active", "yes")
    with connect(board, work_dir=tmp_path) as agent:
        assert any(one.version and not one.problem for one in agent.describe().runtimes)
    # nobody but its own user reads its key, and that user owns nothing else
    pid = unit("MainPID")
    status = say(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t0\t" not in status

    # killed, systemd starts another
    say(f"kill -9 {pid}")
    with pytest.raises(BoardError, match=r"the one before it .* serves again"):
        provisioned(board, broken_agent(tmp_path, "0.9.9"))
    assert unit("ActiveState") == "active"
    assert unit("MainPID") != pid

    # root without capabilities, every device still there, and back
    wishing = replace(board, board="jetson-orin-nano", settings=Settings(lock_clocks=True))
    assert provisioned(wishing).changed
    assert (unit("User"), unit("DynamicUser")) == ("root", "no")
    assert "CapEff:\t0000000000000000" in say(f"cat /proc/{unit('MainPID')}/status")
    assert say("cat /sys/fs/cgroup/devices/system.slice/quantrig-agent.service/devices.list") == "a *:* rwm"
    # of a Pi's clocks the files can be written, and nothing else of the kernel's
    assert provisioned(replace(wishing, board="raspberry-pi-5")).changed
    seen = say(f"nsenter -t {unit('MainPID')} -m findmnt -rn -o TARGET,VFS-OPTIONS")
    options = {line.split()[0]: line.split()[1].split(",") for line in seen.splitlines() if line.startswith("/sys")}
    assert "ro" in options["/sys"]
    assert "rw" in options["/sys/devices/system/cpu"]
    assert "*:*" not in say("cat /sys/fs/cgroup/devices/system.slice/quantrig-agent.service/devices.list").split()

    assert provisioned(board).changed
    assert unit("DynamicUser") == "yes"
    assert not provisioned(board).changed

    unprovision(board)
    assert say("systemctl list-unit-files --no-legend quantrig-agent.service") == ""
    assert say("ls -d /opt/quantrig-agent /var/lib/quantrig-agent /var/lib/private/quantrig-agent") == ""
