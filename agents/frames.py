"""Frames between the serving process and a network's child: one byte of kind, four of length, the payload.

Payloads are the protocol's own messages, serialised, so the serving process forwards tensors without looking inside
and needs no numpy. The channel is a socket pair, not stdout: whatever a runtime prints cannot corrupt it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agents.faults import AgentError, Fault

_HEADER = struct.Struct("<BI")
_ERROR = struct.Struct("<B")
_Message = TypeVar("_Message", bound=Message)

#: A frame holds one message of the protocol, none of which is larger than gRPC's 4 MiB.
MAX_FRAME_BYTES = 4 << 20


class Kind(IntEnum):
    """What a frame is; the payload follows the colon."""

    START = 1  # to the child: its task, JSON
    BEGIN_INFER = 2  # to the child: nothing
    BEGIN_LOAD = 3  # to the child: nothing
    PART = 4  # both ways: TensorPart
    END = 5  # to the child: nothing; ends either stream
    WARM_UP = 6  # to the child: WarmUpRequest
    TIME_BLOCK = 7  # to the child: TimeBlockRequest
    PHASE = 16  # to the agent: PhaseDone
    READY = 17  # to the agent: PreparedNetwork
    BATCH_DONE = 18  # to the agent: BatchDone
    LOADED = 19  # to the agent: LoadInputsReply
    ENDED = 20  # to the agent: nothing; the stream is over and the child waits for the next task
    WARM = 21  # to the agent: WarmUpReply
    BLOCK = 22  # to the agent: Block
    ERROR = 23  # to the agent: one byte of Fault, then UTF-8 text


@dataclass(frozen=True)
class Frame:
    """One frame."""

    kind: Kind
    payload: bytes

    def error(self) -> AgentError:
        """The failure that an ERROR frame carries."""
        try:
            fault = Fault(_ERROR.unpack_from(self.payload)[0])
        except (struct.error, ValueError):
            return AgentError(Fault.BUG, "the network's process sent a malformed error")
        return AgentError(fault, self.payload[_ERROR.size :].decode("utf-8", "replace"))


def message_in(message: _Message, frame: Frame, expected: Kind) -> _Message:
    """The message a frame carries; what a child says is not believed more than what a host says.

    Args:
        message: empty, of the kind that is expected; it is filled and returned.
        frame: from the child.
        expected: its kind.

    Raises:
        AgentError: BUG: a frame of another kind, or one that cannot be read.
    """
    if frame.kind is not expected:
        raise AgentError(Fault.BUG, f"the network's process answered {frame.kind.name} for {expected.name}")
    try:
        message.ParseFromString(frame.payload)
    except DecodeError:
        raise AgentError(Fault.BUG, f"the network's process sent a malformed {expected.name}") from None
    return message


class ChannelClosed(Exception):
    """The other side is gone, or sent what is no frame."""


class ChannelTimeout(Exception):
    """The other side did not answer in time."""


class Channel:
    """One end of the socket pair. Used by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, kind: Kind, payload: bytes = b"", deadline: float | None = None) -> None:
        """Send one frame.

        Args:
            kind: of the frame.
            payload: at most `MAX_FRAME_BYTES`.
            deadline: `time.monotonic()` after which to give up; None waits for ever.

        Raises:
            ChannelClosed, ChannelTimeout: see there.
        """
        if len(payload) > MAX_FRAME_BYTES:
            raise ChannelClosed(f"a frame of {len(payload)} bytes is too large")
        try:
            # One system call for header and payload, without joining them first (a copy of up to 1 MiB).
            self._arm(deadline)
            header = _HEADER.pack(kind, len(payload))
            sent = self._socket.sendmsg([header, payload])
            if sent < len(header):
                self._socket.sendall(header[sent:])
                sent = len(header)
            rest = memoryview(payload)[sent - len(header) :]
            while rest:
                self._arm(deadline)
                rest = rest[self._socket.send(rest) :]
        except TimeoutError:
            raise ChannelTimeout from None
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def send_error(self, error: AgentError) -> None:
        """Send an ERROR frame."""
        self.send(Kind.ERROR, _ERROR.pack(error.fault) + error.message.encode())

    def receive(self, deadline: float | None = None) -> Frame:
        """The next frame.

        Raises:
            ChannelClosed, ChannelTimeout: see there.
        """
        kind_number, length = _HEADER.unpack(self._exactly(_HEADER.size, deadline))
        try:
            kind = Kind(kind_number)
        except ValueError:
            raise ChannelClosed(f"{kind_number} is no kind of frame") from None
        if length > MAX_FRAME_BYTES:
            raise ChannelClosed(f"a frame of {length} bytes is too large")
        return Frame(kind, bytes(self._exactly(length, deadline)))

    def readable(self, within_s: float = 0.0) -> bool:
        """Whether something (or the end) can be read now, or within that time."""
        poll = select.poll()  # select() stops at descriptor 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(within_s * 1e3))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _exactly(self, count: int, deadline: float | None) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        try:
            while view:
                self._arm(deadline)
                got = self._socket.recv_into(view)
                if not got:
                    raise ChannelClosed("the other side closed the channel")
                view = view[got:]
        except TimeoutError:
            raise ChannelTimeout from None
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        return buffer

    def _arm(self, deadline: float | None) -> None:
        if deadline is None:
            self._socket.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
