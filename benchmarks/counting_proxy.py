"""A TCP relay on loopback that counts what passes: bytes above TCP, both directions together, encrypted or not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_READ_BYTES = 1 << 16
#: Nothing more is coming when nothing came for this long, seconds.
QUIET_S = 0.3


class CountingProxy:
    """Relays every connection to its port on to `upstream`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._bytes = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, name="counting-proxy", daemon=True).start()

    @property
    def address(self) -> str:
        """HOST:PORT to connect to instead of the upstream."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def settled_bytes(self, timeout_s: float = 10.0) -> int:
        """Bytes relayed so far, once none came for `QUIET_S`.

        Raises:
            TimeoutError: bytes kept coming.
        """
        deadline = time.monotonic() + timeout_s
        seen, since = self._bytes, time.monotonic()
        while time.monotonic() - since < QUIET_S:
            if time.monotonic() > deadline:
                raise TimeoutError("the connection did not become quiet")
            time.sleep(QUIET_S / 10)
            if self._bytes != seen:
                seen, since = self._bytes, time.monotonic()
        return seen

    def close(self) -> None:
        """End the relay and its connections."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(self._upstream)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_READ_BYTES):
                with self._lock:
                    self._bytes += len(piece)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def counting_proxy(upstream: str) -> Iterator[CountingProxy]:
    """A relay to HOST:PORT for as long as the block runs."""
    host, _, port = upstream.rpartition(":")
    proxy = CountingProxy((host, int(port)))
    try:
        yield proxy
    finally:
        proxy.close()
