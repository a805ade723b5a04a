"""The peer of uploads: the system's own OpenSSH server on a loopback port, with keys of its own and no other login."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

START_S = 10.0


@dataclass(frozen=True, slots=True)
class SftpServer:
    """How to log in, and its process."""

    port: int
    user: str
    key: Path
    pid: int


def find_sshd() -> str | None:
    """Path of the server, which lies outside an ordinary user's PATH."""
    return shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


@contextmanager
def sftp_server(folder: Path, sshd: str) -> Iterator[SftpServer]:
    """`sshd` with its built-in SFTP subsystem, for the current user and one key; ended afterwards."""
    for name in ("host-key", "user-key"):
        make_key(folder / name)
    authorized = folder / "authorized_keys"
    authorized.write_bytes((folder / "user-key.pub").read_bytes())
    port = _free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host-key",
        "AuthorizedKeysFile": authorized,
        "PidFile": "none",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    configuration = folder / "sshd_config"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it confines its unprivileged half
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(configuration)], stderr=log, stdin=subprocess.DEVNULL)
    try:
        _await_port(port, process, folder / "sshd.log")
        yield SftpServer(port, getpass.getuser(), folder / "user-key", process.pid)
    finally:
        process.terminate()
        process.wait()


def make_key(path: Path) -> None:
    """A new key pair: `path` and, beside it, its public half."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b"\n")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"sshd did not start: {log.read_text(errors='replace').strip()[-300:]}"
                raise RuntimeError(message) from error
            time.sleep(0.05)
        else:
            return
