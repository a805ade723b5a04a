"""The system's own sshd on loopback, and a home folder of the test's."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.sftp_server import SftpServer, find_sshd, sftp_server
from harness.targets.target import Ssh, Target, Via

MakeBoard = Callable[..., Target]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """A server whose only login is this user with one key."""
    program = find_sshd()
    if program is None:
        pytest.skip("no sshd here: install openssh-server")
    with sftp_server(tmp_path_factory.mktemp("sshd"), program) as server:
        yield server


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the user's keys and known hosts nor a running SSH agent decide a test."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    return home


@pytest.fixture
def make_board(tmp_path: Path) -> MakeBoard:
    """`make_board(ssh)`: a target of a lab file in the test's folder."""

    def make(ssh: Ssh, name: str = "bench", board: str = "generic", via: Via | None = None) -> Target:
        way = via if via is not None else Via("address", "127.0.0.1:50443")
        return Target(name=name, board=board, environment="cpu", via=way, base=tmp_path, ssh=ssh)

    return make


def login(server: SftpServer, **more: str) -> Ssh:
    """With the server's key."""
    return Ssh("127.0.0.1", server.user, server.key, server.port, **more)  # type: ignore[arg-type]


@pytest.fixture
def free_port() -> int:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def mute() -> Iterator[int]:
    """Somebody listens there who hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield int(listener.getsockname()[1])
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def known(sshd: SftpServer, tmp_path: Path) -> None:
    """The server's key is in the lab's known_hosts."""
    key = sshd.key.with_name("host-key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {key}")


def agent_wheel(folder: Path, version: str = "0.1.0", program: str = "print('quantrig-agent 0')") -> Path:
    """A wheel of the agent's name that needs nothing; `program` is what its command does."""
    path = folder / f"quantrig_agent-{version}-py3-none-any.whl"
    info = f"quantrig_agent-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small_agent.py", f"def main():\n    {program}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: quantrig-agent\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\nquantrig-agent = small_agent:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def broken_agent(folder: Path, version: str) -> Path:
    """One that says its version and ends when it shall serve."""
    program = "import sys; assert '--version' in sys.argv, 'broken on purpose'"
    return agent_wheel(folder, version, program)
