"""One prepared network: the calls a host can make on it, answered by its child process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator

from agents.faults import AgentError, Fault
from agents.frames import Frame, Kind, message_in
from agents.process import ChildProcess
from agents.protocol import CHUNK_BYTES
from agents.protocol import agent_pb2 as pb
from agents.quiet import Quiet

#: No single warm-up or block is longer, whatever a host asks for.
BLOCK_LIMIT_S = 900.0

Waiting = Callable[[], bool]


class Network:
    """One prepared network, for one call at a time.

    Args:
        child: its process, loaded.
        ready: what Prepare answers.
        digest: of its file.
        key: what makes it the same as another one: file, runtime and options.
    """

    def __init__(self, child: ChildProcess, ready: pb.PreparedNetwork, digest: str, key: bytes) -> None:
        self.child = child
        self.ready = ready
        self.digest = digest
        self.key = key
        self.turn = threading.Lock()
        self.used_s = time.monotonic()

    @property
    def network_id(self) -> str:
        """As the hosts know it."""
        return self.ready.network_id

    def infer(
        self, parts: Iterator[pb.TensorPart], quiet: Quiet, waiting: Waiting, limit_s: float
    ) -> Generator[Frame, None, None]:
        """Run the batches that `parts` make up; PART and BATCH_DONE frames, in order.

        The next batch is taken from the host only when the last one was answered, so no data set piles up here.
        """
        with self._stream(Kind.BEGIN_INFER, limit_s):
            whole = True
            for part in parts:
                whole = part.last_of_batch
                if not whole:
                    self._forward(part, limit_s)
                    continue
                with quiet.shared(waiting):
                    self._forward(part, limit_s)
                    frame = self.child.receive("the batch", limit_s)
                while frame.kind is Kind.PART:
                    yield frame
                    frame = self.child.receive("the batch", limit_s)
                yield frame
            if not whole:
                raise AgentError(Fault.INVALID, "the stream ended in the middle of a batch: mark its last part")

    def load_inputs(self, parts: Iterator[pb.TensorPart], limit_s: float) -> pb.LoadInputsReply:
        """Keep one batch in the child."""
        with self._stream(Kind.BEGIN_LOAD, limit_s):
            for part in parts:
                self._forward(part, limit_s)
                if part.last_of_batch:
                    return message_in(
                        pb.LoadInputsReply(), self.child.receive("loading the inputs", limit_s), Kind.LOADED
                    )
        raise AgentError(Fault.INVALID, "the stream ended in the middle of the batch: mark its last part")

    def warm_up(self, request: pb.WarmUpRequest, limit_s: float) -> pb.WarmUpReply:
        """Run until steady."""
        self.child.send(Kind.WARM_UP, request.SerializeToString())
        return message_in(pb.WarmUpReply(), self.child.receive("the warm-up", limit_s), Kind.WARM)

    def time_block(self, request: pb.TimeBlockRequest, limit_s: float) -> pb.Block:
        """Time one block."""
        self.child.send(Kind.TIME_BLOCK, request.SerializeToString())
        return message_in(pb.Block(), self.child.receive("the block", limit_s), Kind.BLOCK)

    @contextlib.contextmanager
    def _stream(self, begin: Kind, limit_s: float) -> Iterator[None]:
        """Begin a stream of parts and, however it ends, leave the child waiting for its next task."""
        self.child.send(begin)
        try:
            yield
        finally:
            # After a cancelled or refused stream: what the child still has to say about it is read and forgotten.
            if self.child.alive:
                with contextlib.suppress(AgentError):
                    self.child.send(Kind.END, timeout_s=limit_s)
                    self._drain(limit_s)

    def _drain(self, limit_s: float) -> None:
        while True:
            try:
                if self.child.receive("ending the stream", limit_s).kind is Kind.ENDED:
                    return
            except AgentError as error:
                if error.fault in (Fault.CRASHED, Fault.TIMED_OUT):
                    raise

    def _forward(self, part: pb.TensorPart, limit_s: float) -> None:
        if len(part.data) > CHUNK_BYTES:
            raise AgentError(Fault.INVALID, f"a part of {len(part.data)} bytes is too large: at most {CHUNK_BYTES}")
        self.child.send(Kind.PART, part.SerializeToString(), limit_s)
        if not part.last_of_batch and self.child.has_spoken():
            # Only a refusal comes before the batch is whole: do not take in the rest of it first.
            self.child.receive("taking the input", limit_s)
