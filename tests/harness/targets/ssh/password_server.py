"""An SSH server that takes a password and runs commands, for what the system's sshd only does for real accounts."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.server import InteractiveQuery


@dataclass
class PasswordServer:
    """Where it listens, the key it shows, and the passwords it was shown."""

    password: str
    interactive: bool
    key: paramiko.PKey = field(default_factory=paramiko.ECDSAKey.generate)
    port: int = 0
    shown: list[str] = field(default_factory=list)
    second_key: paramiko.PKey | None = None


class _Interface(paramiko.ServerInterface):
    def __init__(self, server: PasswordServer) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,keyboard-interactive" if self._server.interactive else "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        if self._server.interactive:
            return AUTH_FAILED
        return self._judge(password)

    def check_auth_interactive(self, username: str, submethods: str) -> int | InteractiveQuery:
        if not self._server.interactive:
            return AUTH_FAILED
        return InteractiveQuery("", "", ("Password: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return self._judge(responses[0])

    def _judge(self, password: str) -> int:
        self._server.shown.append(password)
        return AUTH_SUCCESSFUL if password == self._server.password else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        def run() -> None:
            done = subprocess.run(command, check=False, shell=True, capture_output=True, stdin=subprocess.DEVNULL)
            channel.sendall(done.stdout)
            channel.sendall_stderr(done.stderr)
            channel.send_exit_status(done.returncode)
            channel.close()

        threading.Thread(target=run, daemon=True).start()
        return True


@contextmanager
def password_server(password: str, *, interactive: bool = False) -> Iterator[PasswordServer]:
    """Serve until the end of the block."""
    server = PasswordServer(password, interactive)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = int(listener.getsockname()[1])
        transports: list[paramiko.Transport] = []

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                transport = paramiko.Transport(raw)
                transport.add_server_key(server.key)
                if server.second_key is not None:
                    transport.add_server_key(server.second_key)
                transports.append(transport)
                try:
                    transport.start_server(server=_Interface(server))
                except (paramiko.SSHException, EOFError):
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        for transport in transports:
            transport.close()
