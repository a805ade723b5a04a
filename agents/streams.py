"""What a host may send in a stream: one message that opens it, then its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb

_Request = TypeVar("_Request")


def first_of(requests: Iterator[_Request], part: str) -> _Request:
    """The first message of a stream.

    Args:
        requests: of the stream.
        part: which member of its oneof that message must hold.

    Raises:
        AgentError: INVALID: another one, or none.
    """
    for request in requests:
        if request.WhichOneof("part") == part:  # type: ignore[attr-defined]  # both kinds of stream have this oneof
            return request
        break
    raise AgentError(Fault.INVALID, f"the first message of the stream must be its {part}")


def tensors_of(requests: Iterator[pb.InferRequest]) -> Iterator[pb.TensorPart]:
    """The tensors that follow the first message.

    Raises:
        AgentError: INVALID: something else among them.
    """
    for request in requests:
        if request.WhichOneof("part") != "tensor":
            raise AgentError(Fault.INVALID, "only tensors may follow the first message of the stream")
        yield request.tensor
