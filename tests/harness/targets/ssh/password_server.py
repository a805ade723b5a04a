"""An SSH server that takes a password and runs commands in a given environment.

The system's sshd takes passwords of real accounts only, and gives every login the account's own home and PATH.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

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
    environment: dict[str, str] | None = None


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
            process = subprocess.Popen(
                command, shell=True, env=self._server.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None

            def feed(stdin: IO[bytes]) -> None:
                with suppress(OSError), stdin:
                    while piece := channel.recv(1 << 16):
                        stdin.write(piece)
                        stdin.flush()

            def drain(stream: IO[bytes], send: Callable[[bytes], object]) -> None:
                with suppress(OSError):
                    while piece := os.read(stream.fileno(), 1 << 15):
                        send(piece)

            threading.Thread(target=feed, args=(process.stdin,), daemon=True).start()
            errors = threading.Thread(target=drain, args=(process.stderr, channel.sendall_stderr), daemon=True)
            errors.start()
            drain(process.stdout, channel.sendall)
            errors.join()
            with suppress(OSError):
                channel.send_exit_status(process.wait())
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
                except (paramiko.SSHException, EOFError, OSError):  # it hung up: the next may have better luck
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        for transport in transports:
            transport.close()
