"""How long a host may keep the agent waiting in the middle of a stream.

A host that is gone is noticed by gRPC's keepalive. One that hangs with its connection up is not, and would hold the
network it uses, and a thread, for ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

import grpc

_log = logging.getLogger("quantrig.agent")
_Request = TypeVar("_Request")


class Patience:
    """Cancels calls whose host neither sends nor reads for too long. One thread serves all of them.

    Args:
        limit_s: of one wait for the host.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._guard = threading.Lock()
        self._waiting_since: dict[grpc.ServicerContext, float] = {}
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    @contextlib.contextmanager
    def with_host(self, context: grpc.ServicerContext) -> Iterator[None]:
        """The time in here is the host's."""
        with self._guard:
            self._waiting_since[context] = time.monotonic()
        try:
            yield
        finally:
            with self._guard:
                self._waiting_since.pop(context, None)

    def of(self, requests: Iterator[_Request], context: grpc.ServicerContext) -> Iterator[_Request]:
        """The same requests; each wait for the next one is the host's time."""
        while True:
            with self.with_host(context):
                request = next(requests, None)
            if request is None:
                return
            yield request

    def _watch(self) -> None:
        while True:
            time.sleep(min(self._limit_s / 4, 5.0))
            now = time.monotonic()
            with self._guard:
                late = [context for context, since in self._waiting_since.items() if now - since > self._limit_s]
            for context in late:
                _log.warning("a host neither sent nor read for %g s: its call is cut", self._limit_s)
                context.cancel()
