"""The call that holds a board's settings: what it may carry, and that its end is noticed however it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from agents.settings import Lease, SettingsDesk, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc


def asked_of(requests: Iterator[pb.HoldRequest]) -> dict[str, str]:
    """What the first request asks for, by the names of the protocol.

    Raises:
        AgentError: INVALID: no request, nothing asked for, or something that this agent does not know.
    """
    request = next(requests, None)
    if request is None:
        raise AgentError(Fault.INVALID, "the first message of the stream must be its settings")
    settings = request.settings
    if len(UnknownFieldSet(settings)) or len(UnknownFieldSet(request)):
        raise AgentError(Fault.INVALID, "the settings hold a field that this agent does not know: update the agent")
    asked: dict[str, str] = {}
    if settings.HasField("power_mode"):
        asked["power_mode"] = settings.power_mode
    if settings.HasField("lock_clocks"):
        if not settings.lock_clocks:
            raise AgentError(Fault.INVALID, "lock_clocks: false asks for nothing: leave it out")
        asked["lock_clocks"] = "yes"
    if settings.HasField("governor"):
        asked["governor"] = settings.governor
    if not asked:
        raise AgentError(Fault.INVALID, "no setting is asked for: send at least one")
    return asked


def hold(
    desk: SettingsDesk, asked: Mapping[str, str], requests: Iterator[pb.HoldRequest], context: grpc.ServicerContext
) -> Iterator[pb.HoldEvent]:
    """Set, wait for the host to end its side, give back; give back as well when the call ends in any other way."""
    lease = Lease()

    def left() -> None:
        # On a thread of its own: gRPC's, which calls this, serves every other call as well.
        threading.Thread(target=desk.give_back, args=(lease,), name="settings").start()

    if not context.add_callback(left):
        raise AgentError(Fault.TIMED_OUT, "the caller left")
    try:
        yield pb.HoldEvent(held=_states(desk.hold(lease, asked)))
        if next(requests, None) is not None:
            raise AgentError(Fault.INVALID, "only one message may be sent: end the stream to give the settings back")
        if context.is_active():
            yield pb.HoldEvent(given_back=_states(desk.give_back(lease)))
    finally:
        desk.give_back(lease)


def _states(states: Sequence[State]) -> pb.SettingStates:
    return pb.SettingStates(settings=[state.to_proto() for state in states])
