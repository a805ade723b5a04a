"""The host at the other end of a call: that it leaves is noticed, by who waits and by a child at work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import grpc

from agents.faults import AgentError, Fault
from agents.network import Network


@contextlib.contextmanager
def interrupted_when_left(network: Network, context: grpc.ServicerContext) -> Iterator[None]:
    """Stop the child's loop when the host leaves; never later, when the child may be in another host's block."""
    guard = threading.Lock()
    running = True

    def left() -> None:
        with guard:
            if running:
                network.child.interrupt()

    if not context.add_callback(left):
        raise AgentError(Fault.TIMED_OUT, "the caller left")
    try:
        yield
    finally:
        with guard:
            running = False


class Leaving:
    """Knows when the host is gone, without asking again and again.

    Args:
        context: of the call.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._gone = threading.Event()
        if not context.add_callback(self._gone.set):
            self._gone.set()

    def within(self, seconds: float) -> bool:
        """Whether the host left within that time."""
        return self._gone.wait(max(seconds, 0.0))
