"""Ship a file by its digest: ask what the board lacks, send only that, go on where a cut connection stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
from agents.protocol.pieces import UPLOAD_PATH, encode
from harness.errors import BoardError, Offline, Refused, UserError
from harness.targets.calls import Calls
from harness.targets.validate import Checker
from harness.targets.values import Shipped

#: Slowest link that an upload is allowed for, bytes a second (a 1 Mbit/s line), and what every call gets on top.
SLOWEST_LINK = 125_000
CALL_TIMEOUT_S = 30.0
#: How often a cut upload is resumed, and how long one attempt waits for the connection to come back, seconds.
RESUMES = 3
RECONNECT_S = 5.0

#: Of one message, at most `agents.protocol.CHUNK_BYTES`: the least CPU time of all sizes from 64 KiB to 1 MiB, on a
#: machine with 1 MiB of cache a core.
PIECE_BYTES = 512 << 10
#: glibc learns from the largest block freed so far (up to 32 MiB) how much freed memory to keep. Without that lesson it
#: may hand every sent piece back to the kernel and fault it in again: up to 23,000 faults, 50 ms CPU, in 100 MB.
LESSON_BYTES = 16 << 20

Progress = Callable[[int, int], None]


class _Chunks:
    """The request stream of one upload; remembers what the caller's side raised, which gRPC would only log."""

    def __init__(self, path: Path, header: pb.UploadHeader, progress: Progress | None) -> None:
        self._path = path
        self._header = header
        self._progress = progress
        self.offset = header.offset
        self.sent = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pb.UploadRequest | memoryview]:
        yield pb.UploadRequest(header=self._header)
        done = self._header.offset
        bytes(LESSON_BYTES)  # never touched, and freed at once
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(done)
                # One buffer for all: gRPC has copied a piece into its message before it asks for the next.
                buffer = memoryview(bytearray(PIECE_BYTES))
                while size := file.readinto(buffer):
                    yield buffer[:size]
                    # gRPC comes back for more when the piece has left: what is counted here really travelled.
                    self.sent += size
                    done += size
                    if self._progress is not None:
                        self._progress(done, self._header.size_bytes)
        except Exception as error:  # noqa: BLE001  a disk error or the caller's callback; `ship` raises it again
            self.error = error


class Shipper:
    """Sends files to one agent.

    Args:
        target: name in targets.yaml.
        channel: open.
        stub: of the channel.
        calls: where the calls are counted.
        checker: raises for the target.
    """

    def __init__(self, target: str, channel: grpc.Channel, stub: AgentStub, calls: Calls, checker: Checker) -> None:
        self._target = target
        self._stub = stub
        self._upload = channel.stream_unary(
            UPLOAD_PATH, request_serializer=encode, response_deserializer=pb.UploadReply.FromString
        )
        self._calls = calls
        self._checker = checker

    def ship(self, path: Path, digest: str, progress: Progress | None) -> Shipped:
        """See `AgentClient.ship`."""
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; quantize again") from error
        sent = 0
        resumes_left, fresh_start_left = RESUMES, True
        while True:
            held = self._held(digest, path.name)
            if held is None:
                return Shipped(digest, size, sent, skipped=sent == 0)
            if held > size:
                self._forget(digest)  # what the board holds is not the beginning of this file
                held = 0
            chunks = _Chunks(path, pb.UploadHeader(digest=digest, size_bytes=size, offset=held), progress)
            try:
                self._send(chunks, digest, size - held, path.name)
            except _DataLoss as loss:
                if not fresh_start_left:
                    raise Refused(
                        self._target,
                        f"{path.name} arrived damaged twice ({loss.details}); the file changed since it was hashed, "
                        "or the link or the board's disk is faulty: quantize again, check the board",
                    ) from loss
                fresh_start_left = False
            except _Moved as moved:
                resumes_left -= 1
                if resumes_left < 0:
                    raise moved.error from moved
            except Offline:
                resumes_left -= 1
                if resumes_left < 0 or not self._connects_again():
                    raise
            finally:
                sent += chunks.sent

    def _held(self, digest: str, name: str) -> int | None:
        """Bytes that the board holds of an unfinished upload; None when it holds the whole file."""
        call = self._stub.FindMissing.future(pb.FindMissingRequest(digests=[digest]), timeout=CALL_TIMEOUT_S)
        with self._calls.track(call, f"asking for {name}", timeout_s=CALL_TIMEOUT_S):
            missing = call.result().missing
        if not missing:
            return None
        if len(missing) > 1 or missing[0].digest != digest:
            self._checker.fail("digests that were not asked for")
        return self._checker.size(missing[0].held_bytes, "held_bytes")

    def _send(self, chunks: _Chunks, digest: str, size: int, name: str) -> None:
        timeout_s = CALL_TIMEOUT_S + size / SLOWEST_LINK
        call = self._upload.future(iter(chunks), timeout=timeout_s)
        try:
            with self._calls.track(call, f"uploading {name}", timeout_s=timeout_s):
                reply = call.result()
        except BoardError as error:
            if chunks.error is not None:
                raise chunks.error from None
            cause = error.__cause__
            code = cause.code() if isinstance(cause, grpc.RpcError) else None
            if code is grpc.StatusCode.DATA_LOSS:
                raise _DataLoss(error.message) from error
            # The end of a cut upload may still have been on its way to the board's disk when we asked.
            if code is grpc.StatusCode.INVALID_ARGUMENT and self._held(digest, name) != chunks.offset:
                raise _Moved(error) from error
            raise
        if chunks.error is not None:
            raise chunks.error
        if reply.digest != digest:
            raise _DataLoss("the board computed another digest")

    def _forget(self, digest: str) -> None:
        call = self._stub.Remove.future(pb.RemoveRequest(digest=digest), timeout=CALL_TIMEOUT_S)
        with self._calls.track(call, "removing an unfinished upload", timeout_s=CALL_TIMEOUT_S):
            call.result()

    def _connects_again(self) -> bool:
        """Give a cut link a moment; an agent whose process has ended does not come back."""
        if self._calls.gone():
            return False
        call = self._stub.FindMissing.future(pb.FindMissingRequest(), timeout=RECONNECT_S, wait_for_ready=True)
        try:
            with self._calls.track(call, "connecting again", timeout_s=RECONNECT_S):
                call.result()
        except BoardError:
            return False
        return True


class _DataLoss(Exception):
    """What arrived is not what its digest says."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.details = details


class _Moved(Exception):
    """The board holds more of the file by now than it said."""

    def __init__(self, error: BoardError) -> None:
        super().__init__(str(error))
        self.error = error
