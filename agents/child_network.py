"""What a child does for its host once the network is loaded: batches, kept inputs, warm-up, blocks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from agents.faults import AgentError, Fault
from agents.frames import Channel, Frame, Kind
from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Array, Session
from agents.tensors import BatchAssembler, split
from agents.timing import check_block, time_block, warm_up, with_defaults

_Result = TypeVar("_Result")


class ChildNetwork:
    """A loaded network and the tasks it takes.

    Args:
        session: the runtime's.
        ready: what Prepare answers.
        max_tensor_bytes: of one input tensor.
    """

    def __init__(self, session: Session, ready: pb.PreparedNetwork, max_tensor_bytes: int) -> None:
        self.ready = ready
        self._session = session
        self._max_tensor_bytes = max_tensor_bytes
        self._first_ms: float | None = None
        self._kept: Callable[[], object] | None = None
        self._kept_batch_size = 0
        self._interruption = _Interruption()

    def handle(self, frame: Frame, channel: Channel) -> None:
        """Do the task that a frame begins.

        Raises:
            AgentError: for a warm-up or block; a stream sends its own errors, because it has an end to wait for.
        """
        if frame.kind is Kind.BEGIN_INFER:
            self._stream(channel, self._infer_batch)
        elif frame.kind is Kind.BEGIN_LOAD:
            self._stream(channel, self._keep_batch)
        elif frame.kind is Kind.WARM_UP:
            channel.send(Kind.WARM, self._warm_up(pb.WarmUpRequest.FromString(frame.payload)).SerializeToString())
        elif frame.kind is Kind.TIME_BLOCK:
            channel.send(
                Kind.BLOCK, self._time_block(pb.TimeBlockRequest.FromString(frame.payload)).SerializeToString()
            )
        else:
            raise AgentError(Fault.BUG, f"the network's process got {frame.kind.name} out of turn")

    def _stream(self, channel: Channel, take: Callable[[Channel, int, dict[str, Array]], None]) -> None:
        """Take batches until END; after an error, let the rest of the stream pass by."""
        assembler: BatchAssembler | None = BatchAssembler(self._session.inputs, self._max_tensor_bytes)
        index = 0
        while True:
            frame = channel.receive()
            if frame.kind is Kind.END:
                channel.send(Kind.ENDED)
                return
            if assembler is None:
                continue
            try:
                batch = assembler.add(pb.TensorPart.FromString(frame.payload))
                if batch is not None:
                    take(channel, index, batch)
                    index += 1
            except AgentError as error:
                assembler = None
                channel.send_error(error)

    def _infer_batch(self, channel: Channel, index: int, batch: dict[str, Array]) -> None:
        began = time.perf_counter()
        outputs = self._session.run(batch)
        duration_ms = (time.perf_counter() - began) * 1e3
        self._note_first(duration_ms)
        for part in split(outputs):
            channel.send(Kind.PART, part.SerializeToString())
        channel.send(Kind.BATCH_DONE, pb.BatchDone(index=index, duration_ms=duration_ms).SerializeToString())

    def _keep_batch(self, channel: Channel, index: int, batch: dict[str, Array]) -> None:
        if index:
            raise AgentError(Fault.INVALID, "a second batch came: send one as the input of blocks")
        self._kept = self._session.bind(batch)
        first = batch[self._session.inputs[0].name] if batch else None
        self._kept_batch_size = int(first.shape[0]) if first is not None and first.ndim else 1
        size_bytes = sum(tensor.nbytes for tensor in batch.values())
        channel.send(Kind.LOADED, pb.LoadInputsReply(size_bytes=size_bytes).SerializeToString())

    def _warm_up(self, request: pb.WarmUpRequest) -> pb.WarmUpReply:
        run = self._kept_inputs()
        if self._first_ms is None:
            began = time.perf_counter()
            run()
            self._note_first((time.perf_counter() - began) * 1e3)
        full = with_defaults(request)
        reply = self._interruption.during(lambda: warm_up(run, full))
        reply.first_ms = self._first_ms or 0.0
        return reply

    def _time_block(self, request: pb.TimeBlockRequest) -> pb.Block:
        run = self._kept_inputs()
        full = check_block(request)
        return self._interruption.during(lambda: time_block(run, full, self._kept_batch_size))

    def _kept_inputs(self) -> Callable[[], object]:
        if self._kept is None:
            raise AgentError(Fault.REFUSED, "no inputs are loaded for this network: call LoadInputs first")
        return self._kept

    def _note_first(self, duration_ms: float) -> None:
        if self._first_ms is None:
            self._first_ms = duration_ms


class _LeftEarly(Exception):
    """The host that asked for a warm-up or block is gone."""


class _Interruption:
    """SIGUSR1 ends a warm-up or block between two inferences, and nothing else."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGUSR1, self._arrived)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise _LeftEarly

    def during(self, task: Callable[[], _Result]) -> _Result:
        """The result of `task`.

        Raises:
            AgentError: TIMED_OUT when the host left.
        """
        try:
            self._armed = True
            result = task()
            self._armed = False
        except _LeftEarly:
            raise AgentError(Fault.TIMED_OUT, "the caller left during the run") from None
        finally:
            self._armed = False
        return result
