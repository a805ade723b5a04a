"""Preparing, seen from the serving process: the phases a child reports, and signs of life while it is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator

from agents.faults import AgentError, Fault
from agents.frames import Kind, message_in
from agents.network import Waiting
from agents.process import ChildProcess
from agents.protocol import agent_pb2 as pb

#: A compiler at work is told to the host this often, but no oftener than a host of any version takes (64 phases).
_BEAT_S = 2.0
_MAX_BEATS = 48
_POLL_S = 0.2


def preparing(child: ChildProcess, limit_s: float, waiting: Waiting) -> Iterator[pb.PrepareEvent]:
    """Events of one child's preparation, the last of them that it is ready.

    Args:
        child: just started.
        limit_s: for all of it.
        waiting: false once the caller is gone.

    Raises:
        AgentError: what the child says, CRASHED, or TIMED_OUT past the limit.
    """
    deadline = time.monotonic() + limit_s
    start_ms = 0.0
    building: pb.PhaseDone | None = None
    while True:
        if building is not None:
            yield from _signs_of_life(child, building, deadline, limit_s, waiting)
        left_s = max(deadline - time.monotonic(), 0.001)
        try:
            frame = child.receive("preparing", left_s, waiting)
        except AgentError as error:
            if error.fault is Fault.TIMED_OUT:
                message = (
                    f"preparing ran past its limit of {limit_s:g} s: its process was ended; "
                    "use a smaller network or raise --prepare-timeout-s"
                )
                raise AgentError(Fault.TIMED_OUT, message) from None
            raise
        if frame.kind is Kind.READY:
            ready = message_in(pb.PreparedNetwork(), frame, Kind.READY)
            ready.start_ms = start_ms
            ready.resident_bytes = child.resident_bytes()
            yield pb.PrepareEvent(ready=ready)
            return
        phase = message_in(pb.PhaseDone(), frame, Kind.PHASE)
        building = phase if phase.under_way else None
        if phase.name == "start":
            # Only this side saw the process begin.
            start_ms = phase.duration_ms = (time.perf_counter() - child.started) * 1e3
        yield pb.PrepareEvent(phase=phase)


def _signs_of_life(
    child: ChildProcess, building: pb.PhaseDone, deadline: float, limit_s: float, waiting: Waiting
) -> Iterator[pb.PrepareEvent]:
    """While a compiler is silent, that it is still at work; ends when the child speaks or nobody listens."""
    began = time.monotonic()
    beat_s = max(_BEAT_S, limit_s / _MAX_BEATS)
    due = began + beat_s
    while time.monotonic() < deadline and waiting():
        if child.has_spoken(_POLL_S):
            return
        if time.monotonic() >= due:
            due += beat_s
            so_far = pb.PhaseDone()
            so_far.CopyFrom(building)
            so_far.duration_ms = (time.monotonic() - began) * 1e3
            yield pb.PrepareEvent(phase=so_far)
