"""Holding a board's settings over its agent: set for as long as a block of code runs, given back at its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from agents.protocol import agent_pb2 as pb
from harness.targets.validate import MAX_DETAILS, Checker, clean_text

if TYPE_CHECKING:
    from agents.protocol.agent_pb2_grpc import AgentStub
    from harness.targets.board_settings import Settings
    from harness.targets.calls import Calls

#: Three tools of a vendor's, at the agent's own limit for each (30 s), twice over when they are given back.
LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class SettingState:
    """What came of one setting.

    Args:
        name: power_mode, lock_clocks or governor.
        asked: what for.
        before: before anything was changed; "" when the board does not tell.
        now: as read back.
        problem: why it is not as asked (when given back: not as before), one line; "" when it is.
    """

    name: str
    asked: str
    before: str
    now: str
    problem: str


@dataclass(slots=True)
class Held:
    """A board that is held.

    Args:
        states: after setting.
        given_back: after the end; None as long as it is held, and when the agent did not live to say.
    """

    states: tuple[SettingState, ...] = ()
    given_back: tuple[SettingState, ...] | None = None


@contextmanager
def hold_settings(stub: AgentStub, calls: Calls, checker: Checker, settings: Settings) -> Iterator[Held]:
    """Set `settings` on the board while the block runs; see `AgentClient.hold_settings`."""
    released = threading.Event()

    def requests() -> Iterator[pb.HoldRequest]:
        yield pb.HoldRequest(
            settings=pb.BoardSettings(
                power_mode=settings.power_mode,
                lock_clocks=settings.lock_clocks or None,
                governor=settings.governor,
            )
        )
        released.wait()  # the open stream is the hold

    held = Held()
    try:
        call = stub.HoldSettings(requests())
        with calls.track(call, "setting the board's state", idle_limit_s=LIMIT_S) as flight:

            def event(kind: str) -> tuple[SettingState, ...]:
                flight.owed(True)
                got = next(iter(call), None)
                flight.owed(False)
                if got is None or got.WhichOneof("event") != kind:
                    checker.fail("something else than the state of the settings it was asked to hold")
                return _states(checker, got.held if kind == "held" else got.given_back)

            held.states = event("held")
            try:
                yield held
            except BaseException:
                released.set()
                with contextlib.suppress(grpc.RpcError):  # what went wrong in the block says more
                    held.given_back = event("given_back")
                raise
            released.set()
            held.given_back = event("given_back")
    finally:
        released.set()


def _states(checker: Checker, states: pb.SettingStates) -> tuple[SettingState, ...]:
    checker.count(states.settings, "settings", 16)
    return tuple(
        SettingState(
            clean_text(one.name, 64),
            clean_text(one.asked, 64),
            clean_text(one.before, 64),
            clean_text(one.now, 64),
            clean_text(one.problem, MAX_DETAILS),
        )
        for one in states.settings
    )
