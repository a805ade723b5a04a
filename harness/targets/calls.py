"""Calls in flight: so that another thread can end them, and none waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc

from harness.errors import BoardError
from harness.targets.errors_map import CallCancelled, translate

#: How often a watched stream is looked at, seconds.
WATCH_INTERVAL_S = 0.5
#: On top of the agent's own limits, which shall strike first because their message says more.
MARGIN_S = 30.0


_Reply = TypeVar("_Reply")


class Cancellable(Protocol):
    """Any gRPC call object."""

    def cancel(self) -> object:
        """End the call."""


class InFlight:
    """One call: who cancelled it, and since when the board owes an answer."""

    def __init__(self, call: Cancellable, idle_limit_s: float | None) -> None:
        self.call = call
        self.idle_limit_s = idle_limit_s
        self.cancelled_by_us = False
        self.stalled = False
        self._owed_since: float | None = None
        self._paused = False

    def owed(self, since: bool) -> None:
        """Start (again) or stop the clock of a board that owes an answer."""
        self._owed_since = time.monotonic() if since else None

    def pause(self) -> None:
        """Stop every clock: our own side is busy and does not read what the board sends."""
        self._paused = True

    def go_on(self, owed: bool) -> None:
        """The opposite of `pause`."""
        self.owed(owed)
        self._paused = False

    def check(self) -> None:
        """End the call when the board owes an answer for longer than the limit."""
        since = self._owed_since
        if self._paused or self.idle_limit_s is None or since is None:
            return
        if time.monotonic() - since > self.idle_limit_s:
            self.stalled = True
            self.call.cancel()

    def cancel(self) -> None:
        """End the call on our own wish."""
        self.cancelled_by_us = True
        self.call.cancel()


class Calls:
    """The calls in flight to one agent.

    Args:
        target: name in targets.yaml, for messages.
        stop: when set, no new call starts.
        obituary: how the agent's process ended, None while it lives or when it is not ours.
    """

    def __init__(self, target: str, stop: threading.Event, obituary: Callable[[], str | None]) -> None:
        self._target = target
        self._stop = stop
        self._obituary = obituary
        self._lock = threading.Lock()
        self._flying: set[InFlight] = set()
        #: the agent answered something already: from then on silence means offline, not unreachable
        self.answered = False

    def cancel_all(self) -> None:
        """End every call in flight; the threads that wait for them get `CallCancelled`."""
        with self._lock:
            flying = list(self._flying)
        for flight in flying:
            flight.cancel()

    def gone(self) -> bool:
        """Whether the agent's process is known to have ended."""
        return self._obituary() is not None

    def result_of(self, call: grpc.Future[_Reply]) -> _Reply:
        """The call's result; a wait for one that nobody can see yet (it is still being connected) ends with `stop`.

        Raises:
            CallCancelled: `stop` was set.
        """
        while True:
            try:
                return call.result(timeout=WATCH_INTERVAL_S)
            except grpc.FutureTimeoutError:
                if self._stop.is_set():
                    raise CallCancelled(self._target) from None

    @contextmanager
    def track(
        self,
        call: Cancellable,
        doing: str,
        *,
        timeout_s: float | None = None,
        idle_limit_s: float | None = None,
        even_when_stopped: bool = False,
    ) -> Iterator[InFlight]:
        """Count `call` as in flight while the block runs, and speak our errors for whatever gRPC raises in it.

        Args:
            call: the gRPC call, already started.
            doing: what for, for messages.
            timeout_s: the deadline it was started with.
            idle_limit_s: end it when the board owes an answer for longer (streams, which have no deadline).
            even_when_stopped: clean-up calls are allowed while the run stops.
        """
        flight = InFlight(call, idle_limit_s)
        watch = None if idle_limit_s is None else _Watch(flight)
        with self._lock:
            self._flying.add(flight)
        try:
            # After registering: a stop that came earlier is seen here, one that comes later finds the call in the set.
            if self._stop.is_set() and not even_when_stopped:
                raise CallCancelled(self._target)
            yield flight
            self.answered = True
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise self._speak(flight, error, doing, timeout_s) from error
        finally:
            with self._lock:
                self._flying.discard(flight)
            if watch is not None:
                watch.end()
            call.cancel()  # no effect on a call that has ended; frees one that the block left early

    def _speak(self, flight: InFlight, error: BaseException, doing: str, timeout_s: float | None) -> BoardError:
        if flight.cancelled_by_us:
            return CallCancelled(self._target)
        if flight.stalled:
            timeout_s = flight.idle_limit_s
            error = _Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "no sign of life from the board")
        elif not isinstance(error, grpc.RpcError):
            error = _Ended(grpc.StatusCode.CANCELLED, "")
        assert isinstance(error, grpc.RpcError)
        gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        return translate(
            self._target,
            error,
            doing=doing,
            answered=self.answered,
            obituary=self._obituary() if gone or error.code() is grpc.StatusCode.CANCELLED else None,
            timeout_s=timeout_s,
        )


class _Ended(grpc.RpcError):
    """A status for calls that gRPC ends without one (cancelled futures)."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class _Watch:
    """A thread that looks at one stream now and then."""

    def __init__(self, flight: InFlight) -> None:
        self._flight = flight
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(WATCH_INTERVAL_S):
            self._flight.check()

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
