"""Real lines: pseudo terminals, TCP servers, an RFC 2217 server; a board as a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import serial
from serial.rfc2217 import PortManager

from harness.targets.console.watch import ConsoleWatch

Watch = Callable[..., ConsoleWatch]


@dataclass
class Line:
    """A pseudo terminal: the test is the board and holds its end."""

    board: int
    path: str

    def say(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.board, view) :]

    def heard(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += os.read(self.board, count - len(found))
        return found


@dataclass
class Board:
    """`fake_board.py` as a process."""

    process: subprocess.Popen[str]
    path: str

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


class TcpConsole:
    """A terminal server with one raw TCP port (`socket://`), which can drop its client."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._client: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def accept(self) -> socket.socket:
        self._listener.settimeout(60)
        self._client, _ = self._listener.accept()
        return self._client

    def drop(self) -> None:
        assert self._client is not None
        self._client.shutdown(socket.SHUT_RDWR)
        self._client.close()

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.drop()
        self._listener.close()


class PtySerial(serial.Serial):  # type: ignore[misc]
    """A pseudo terminal as a serial port: it has no modem lines to read or set (the kernel says ENOTTY)."""

    cts = property(lambda _: True)
    dsr = property(lambda _: True)
    ri = property(lambda _: False)
    cd = property(lambda _: True)

    def _update_rts_state(self) -> None:
        """Nothing to set."""

    def _update_dtr_state(self) -> None:
        """Nothing to set."""


class Rfc2217Server:
    """pyserial's own server side of RFC 2217 in front of a serial device."""

    def __init__(self, device: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self._device = PtySerial(device, timeout=0.05)
        self._end = threading.Event()
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._pass_on(connection)

    def _pass_on(self, connection: socket.socket) -> None:
        connection.settimeout(0.02)
        self._dropped.clear()

        class Sender:
            def write(self, data: bytes) -> None:
                connection.sendall(data)

        manager = PortManager(self._device, Sender())
        while not self._end.is_set() and not self._dropped.is_set():
            if data := self._device.read(self._device.in_waiting or 1):
                connection.sendall(b"".join(manager.escape(data)))
            with contextlib.suppress(TimeoutError):
                received = connection.recv(1024)
                if not received:
                    return
                self._device.write(b"".join(manager.filter(received)))

    def drop(self) -> None:
        """End the connection that is open."""
        self._dropped.set()

    def close(self) -> None:
        self._end.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        self._thread.join(60)
        self._device.close()


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)
