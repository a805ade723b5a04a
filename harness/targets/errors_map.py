"""What went wrong on the wire, in the words of `harness.errors`."""

from __future__ import annotations

import grpc

from harness.errors import (
    BadResult,
    BoardError,
    Crashed,
    ExitCode,
    Offline,
    Refused,
    TimedOut,
    Unreachable,
)
from harness.targets.validate import MAX_DETAILS, clean_text


class CallCancelled(BoardError):
    """The run was stopped from this side (Ctrl-C, `AgentClient.cancel`).

    Not the board's fault; a `BoardError` all the same, so that it takes the same way out of a target's work.
    """

    exit_code = ExitCode.INTERRUPTED
    status = "pending"

    def __init__(self, target: str, message: str = "stopped; `quantrig resume` goes on from here") -> None:
        super().__init__(target, message)


_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
    }
)
#: What gRPC itself says when a message from the other side is over our limit (surface/call and message_size filter).
_TOO_LARGE = ("received message larger than max", "message size exceeds")
#: What gRPC says in INTERNAL or UNKNOWN when the connection went away under a call.
_CUT = ("rst_stream", "stream removed", "connection reset", "socket closed", "goaway", "broken pipe")


def translate(
    target: str,
    error: grpc.RpcError,
    *,
    doing: str,
    answered: bool,
    obituary: str | None = None,
    timeout_s: float | None = None,
) -> BoardError:
    """The `BoardError` for a failed call.

    Args:
        target: name in targets.yaml.
        error: as gRPC raised it; a call that we cancelled ourselves does not come here.
        doing: what the call was for, e.g. "uploading net.onnx".
        answered: whether this agent answered anything before.
        obituary: how the agent's process ended, where we started it and it did end.
        timeout_s: the limit that the call ran under, seconds.
    """
    code = error.code()
    details = clean_text(error.details() or "", MAX_DETAILS)
    lowered = details.lower()
    if obituary is not None:
        kind = Offline if answered else Unreachable
        return kind(target, f"the agent ended while {doing}: {obituary}; see its log, then `quantrig resume`")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(text in lowered for text in _TOO_LARGE):
        return BadResult(target, f"the agent sent an oversized message while {doing} ({details}); update or restart it")
    if code is grpc.StatusCode.UNAVAILABLE or any(text in lowered for text in _CUT):
        if answered:
            return Offline(
                target,
                f"the agent stopped answering while {doing}; the board lost power or network, or its agent died: "
                f"check it, then `quantrig resume` ({details})",
            )
        return Unreachable(target, f"nothing answers ({details}); check the address and that `quantrig-agent` runs")
    if code is grpc.StatusCode.CANCELLED:
        return Offline(target, f"the agent ended the call while {doing}: it is shutting down; start it again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        within = f" within {timeout_s:.0f} s" if timeout_s is not None else ""
        return TimedOut(target, f"the board did not finish {doing}{within} ({details})")
    if code is grpc.StatusCode.ABORTED:
        return Crashed(target, f"the network's process on the board died while {doing}: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Refused(target, f"what answers there cannot do {doing}: another service, or an older agent; update it")
    if code in _REFUSALS:
        return Refused(target, f"{doing}: {details}")
    return BoardError(target, f"the agent failed while {doing}: {code.name} {details}; see the agent's log")
