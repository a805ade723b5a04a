"""Keys first, then a password from the environment, which is written nowhere."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.sftp_server import SftpServer
from harness.errors import Refused, UserError
from harness.targets.ssh.hostkeys import fingerprint
from harness.targets.ssh.login import password_variable
from harness.targets.ssh.session import open_session
from harness.targets.target import Ssh, Target
from tests.harness.targets.ssh.conftest import login
from tests.harness.targets.ssh.password_server import PasswordServer, password_server

MakeBoard = Callable[..., Target]
SECRET = "correct-horse-7f3a91"


def pinned(server: PasswordServer) -> Ssh:
    return Ssh("127.0.0.1", "pi", port=server.port, host_key=fingerprint(server.key))


@pytest.mark.parametrize("interactive", [False, True])
def test_a_password_opens_the_board_and_is_in_no_log(
    make_board: MakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    interactive: bool,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("QUANTRIG_SSH_PASSWORD_RPI_4_LAB", SECRET)
    heard: list[str] = []
    with password_server(SECRET, interactive=interactive) as server:
        board = make_board(pinned(server), name="rpi-4-lab")
        with open_session(board, log=tmp_path / "log", tell=heard.append) as session:
            assert session.run(["echo", "in"]).out == "in\n"
        assert server.shown == [SECRET]
    assert "in" in (tmp_path / "log").read_text()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in content for content in [*written, caplog.text.encode(), str(heard).encode()])


@pytest.mark.parametrize("interactive", [False, True])
def test_a_wrong_password_is_one_line_without_it(
    make_board: MakeBoard, monkeypatch: pytest.MonkeyPatch, interactive: bool
) -> None:
    monkeypatch.setenv("QUANTRIG_SSH_PASSWORD_BENCH", "not-" + SECRET)
    with (
        password_server(SECRET, interactive=interactive) as server,
        pytest.raises(Refused) as caught,
        open_session(make_board(pinned(server))),
    ):
        pass
    assert "the password in QUANTRIG_SSH_PASSWORD_BENCH" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_without_a_password_the_variable_is_named_and_nothing_is_shown(make_board: MakeBoard) -> None:
    with password_server(SECRET) as server:
        with (
            pytest.raises(Refused, match="no password in QUANTRIG_SSH_PASSWORD_BENCH"),
            open_session(make_board(pinned(server)), may_ask=True),  # no terminal here: nobody is asked
        ):
            pass
        assert server.shown == []


def test_an_unknown_board_never_sees_the_password(make_board: MakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTRIG_SSH_PASSWORD_BENCH", SECRET)
    with password_server(SECRET) as server:
        with (
            pytest.raises(UserError, match="is not known"),
            open_session(make_board(Ssh("127.0.0.1", "pi", port=server.port))),
        ):
            pass
        assert server.shown == []


def test_one_variable_a_target() -> None:
    assert password_variable("rpi5-lab") == "QUANTRIG_SSH_PASSWORD_RPI5_LAB"


@pytest.mark.usefixtures("known")
def test_the_usual_key_of_the_user_is_found(sshd: SftpServer, make_board: MakeBoard, own_home: Path) -> None:
    ssh = Ssh("127.0.0.1", sshd.user, port=sshd.port)
    with pytest.raises(Refused, match="lets us in with nothing we have"), open_session(make_board(ssh)):
        pass
    (own_home / ".ssh" / "id_ed25519").write_bytes(sshd.key.read_bytes())
    with open_session(make_board(ssh)):
        pass


@pytest.mark.usefixtures("known")
def test_keys_that_cannot_be_used_are_named(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "secret words", "-f", str(locked)], check=True)
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    (tmp_path / "text").write_text("no key\n")
    for name, kind, words in (
        ("absent", UserError, "no key"),
        ("text", UserError, "no private key"),
        ("locked", UserError, "has a passphrase; give it to the SSH agent"),
        ("stranger", Refused, "lets us in with nothing we have"),
    ):
        ssh = Ssh("127.0.0.1", sshd.user, tmp_path / name, sshd.port)
        with pytest.raises(kind, match=words), open_session(make_board(ssh)):
            pass
    with open_session(make_board(login(sshd))):
        pass
