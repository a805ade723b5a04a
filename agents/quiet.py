"""Who may compute when: many untimed batches together, or one timed block alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from agents.faults import AgentError, Fault

_POLL_S = 0.2


class Quiet:
    """A shared-or-alone lock: nothing else of this agent loads or runs a network while a block is timed.

    Whoever wants to be alone comes first: new batches wait, or a stream of them could keep a block waiting for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._alone = False
        self._wanting_alone = 0

    @contextlib.contextmanager
    def shared(self, waiting: Callable[[], bool]) -> Iterator[None]:
        """Run beside others, but not beside a timed block.

        Args:
            waiting: false once the caller is gone.

        Raises:
            AgentError: TIMED_OUT when the caller is gone.
        """
        with self._changed:
            self._wait(lambda: not self._alone and not self._wanting_alone, waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self, waiting: Callable[[], bool]) -> Iterator[None]:
        """Run with nothing beside.

        Raises:
            AgentError: TIMED_OUT when the caller is gone.
        """
        with self._changed:
            self._wanting_alone += 1
            try:
                self._wait(lambda: not self._alone and not self._sharing, waiting)
                self._alone = True
            finally:
                self._wanting_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def _wait(self, free: Callable[[], bool], waiting: Callable[[], bool]) -> None:
        while not free():
            self._changed.wait(_POLL_S)
            if not waiting():
                raise AgentError(Fault.TIMED_OUT, "the caller left while waiting for its turn on the board")


@contextlib.contextmanager
def turn(lock: threading.Lock, waiting: Callable[[], bool]) -> Iterator[None]:
    """Hold `lock`, giving up when the caller is gone.

    Raises:
        AgentError: TIMED_OUT when the caller is gone.
    """
    while not lock.acquire(timeout=_POLL_S):
        if not waiting():
            raise AgentError(Fault.TIMED_OUT, "the caller left while waiting for its turn on the board")
    try:
        yield
    finally:
        lock.release()
