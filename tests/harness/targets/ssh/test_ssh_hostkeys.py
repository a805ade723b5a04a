"""Whose key is accepted: a real server's, compared with what ssh-keygen says of it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

from benchmarks.sftp_server import SftpServer
from harness.errors import Refused, Unreachable, UserError
from harness.targets.lab import parse_lab
from harness.targets.ssh.hostkeys import fingerprint
from harness.targets.ssh.session import open_session
from harness.targets.target import Ssh, Target
from tests.harness.targets.ssh.conftest import login
from tests.harness.targets.ssh.password_server import password_server

MakeBoard = Callable[..., Target]


def server_key(server: SftpServer) -> Path:
    return server.key.with_name("host-key.pub")


def real_fingerprint(server: SftpServer) -> str:
    said = subprocess.run(["ssh-keygen", "-lf", str(server_key(server))], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def other_key() -> str:
    key = paramiko.ECDSAKey.generate()
    return f"{key.get_name()} {key.get_base64()}"


def refusal(target: Target, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught, open_session(target):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_board_is_refused_with_its_fingerprint_and_how_to_pin_it(
    sshd: SftpServer, make_board: MakeBoard
) -> None:
    said = refusal(make_board(login(sshd)), UserError)
    real = real_fingerprint(sshd)
    assert f"its ssh-ed25519 host key is {real};" in said
    text = f'targets:\n  bench: {{board: generic, via: local, ssh: {{host: h, host_key: "{real}"}}}}\n'
    assert f'ssh: {{host_key: "{real}"}}' in said
    assert parse_lab(text, Path("targets.yaml")).targets["bench"].ssh is not None  # what it says can be written


def test_a_pinned_board_is_accepted_and_another_refused(sshd: SftpServer, make_board: MakeBoard) -> None:
    real = real_fingerprint(sshd)
    for pinned in (real, f"{real}="):
        with open_session(make_board(login(sshd, host_key=pinned))) as session:
            assert session.run(["echo", "here"]).out == "here\n"
    wrong = "SHA256:" + "A" * 43
    said = refusal(make_board(login(sshd, host_key=wrong)), Refused)
    assert real in said
    assert wrong in said


def test_a_pin_goes_before_known_hosts(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {server_key(sshd).read_text()}")
    refusal(make_board(login(sshd, host_key="SHA256:" + "B" * 43)), Refused)


def test_a_pin_may_be_of_any_key_the_board_has(make_board: MakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTRIG_SSH_PASSWORD_BENCH", "pass")
    with password_server("pass") as server:
        server.second_key = paramiko.RSAKey.generate(2048)
        for key in (server.key, server.second_key):
            ssh = Ssh("127.0.0.1", "pi", port=server.port, host_key=fingerprint(key))
            with open_session(make_board(ssh)) as session:
                assert session.run(["echo", "here"]).out == "here\n"


@pytest.mark.parametrize("place", ["home/.ssh/known_hosts", "known_hosts"])
def test_known_hosts_of_the_user_and_of_the_lab(
    sshd: SftpServer, make_board: MakeBoard, tmp_path: Path, place: str
) -> None:
    path = tmp_path / place
    path.write_text(f"[127.0.0.1]:{sshd.port} {server_key(sshd).read_text()}")
    with open_session(make_board(login(sshd))):
        pass
    subprocess.run(["ssh-keygen", "-Hf", str(path)], check=True, capture_output=True)  # names as hashes
    assert "127.0.0.1" not in path.read_text()
    with open_session(make_board(login(sshd))):
        pass
    path.write_text(f"127.0.0.1 {server_key(sshd).read_text()}")  # another port is another server
    refusal(make_board(login(sshd)), UserError)


def test_a_changed_key_is_refused_of_whatever_type(sshd: SftpServer, make_board: MakeBoard, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    for key in (other_key(), (tmp_path / "other.pub").read_text()):
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
        said = refusal(make_board(login(sshd)), Refused)
        assert "has changed" in said
        assert real_fingerprint(sshd) in said
        assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in said


def test_nobody_there_and_somebody_who_speaks_no_ssh(make_board: MakeBoard, free_port: int, mute: int) -> None:
    assert "no SSH at 127.0.0.1" in refusal(make_board(Ssh("127.0.0.1", port=free_port)), Unreachable)
    assert "agrees on no SSH connection" in refusal(make_board(Ssh("127.0.0.1", port=mute)), Unreachable)
    assert "no machine is called" in refusal(make_board(Ssh("no-such-board.invalid")), Unreachable)


def test_a_port_that_says_nothing_is_no_board(make_board: MakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.targets.ssh.transport.CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = int(silent.getsockname()[1])
        refusal(make_board(Ssh("127.0.0.1", "pi", port=port, host_key="SHA256:" + "B" * 43)), Unreachable)
