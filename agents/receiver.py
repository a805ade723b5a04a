"""One upload in progress: bytes in order, hashed as they are written, brought to the disk on the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from pathlib import Path

from agents.durable import Mark, Marks, Syncer
from agents.faults import AgentError, Fault
from agents.protocol import CHUNK_BYTES

#: So much of an upload at most is lost to a power cut, s; a sender is never kept waiting for it.
MARK_EVERY_S = 1.0
_READ_BYTES = 1 << 20


class Receiver:
    """Takes in one file, whose name is its digest.

    Args:
        partial: directory (a descriptor) of unfinished files.
        blobs: of finished ones.
        digest: sha256 of the whole file.
        size_bytes: of the whole file.
        held: what an earlier upload left of it; None: nothing.
        marks: of unfinished files.
        syncer: brings them to the disk.

    Raises:
        AgentError: NOT_FOUND, or INVALID where the disk does not hold what was marked; it is dropped then.
    """

    def __init__(
        self, partial: int, blobs: int, digest: str, size_bytes: int, held: Mark | None, marks: Marks, syncer: Syncer
    ) -> None:
        self._partial = partial
        self._blobs = blobs
        self._digest = digest
        self._size_bytes = size_bytes
        self._marks = marks
        self._syncer = syncer
        self.received_bytes = held.size if held is not None else 0
        self._marked_bytes = self.received_bytes
        self._marked_s = time.monotonic()
        self._marking = False
        self._over = False  # it is whole or given up: no marks any more
        self._guard = threading.Lock()
        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        if held is None:
            with contextlib.suppress(FileNotFoundError):  # an empty leftover, or a link planted there
                os.unlink(digest, dir_fd=partial)
            flags |= os.O_CREAT | os.O_EXCL
        self._file = os.open(digest, flags, 0o600, dir_fd=partial)
        try:
            if not is_ours(os.fstat(self._file)):
                raise AgentError(Fault.NOT_FOUND, f"{digest[:12]}…: what is held is no file of this agent: start again")
            while piece := os.read(self._file, _READ_BYTES):
                self._hash.update(piece)
            if held is not None and self._hash.hexdigest() != held.sha256:
                self._discard()
                message = (
                    f"{digest[:12]}…: the {held.size} bytes held were damaged on the board's disk: start again at 0"
                )
                raise AgentError(Fault.INVALID, message)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            AgentError: INVALID beyond the declared size or `CHUNK_BYTES`; EXHAUSTED when the disk is full.
        """
        if len(chunk) > CHUNK_BYTES:
            raise AgentError(Fault.INVALID, f"a chunk of {len(chunk)} bytes is too large: at most {CHUNK_BYTES}")
        if self.received_bytes + len(chunk) > self._size_bytes:
            self._discard()
            message = f"{self._digest[:12]}…: more bytes came than the {self._size_bytes} declared"
            raise AgentError(Fault.INVALID, message)
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._discard()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise disk_full(None) from None
            raise AgentError(Fault.EXHAUSTED, f"the board cannot store the file: {error.strerror}") from None
        self._hash.update(chunk)
        self.received_bytes += len(chunk)
        if not self._marking and time.monotonic() - self._marked_s > MARK_EVERY_S:
            self._mark_soon()

    def finish(self) -> str:
        """The digest of the now complete file.

        Raises:
            AgentError: INVALID when bytes are missing (what came is kept), DATA_LOSS for a wrong digest (it is not).
        """
        if self.received_bytes != self._size_bytes:
            message = (
                f"{self._digest[:12]}…: the stream ended at {self.received_bytes} of {self._size_bytes} bytes: "
                "resume there"
            )
            raise AgentError(Fault.INVALID, message)
        computed = self._hash.hexdigest()
        if computed != self._digest:
            self._discard()
            message = f"the bytes of {self._digest[:12]}… have the digest {computed[:12]}…: send the file again from 0"
            raise AgentError(Fault.DATA_LOSS, message)
        with self._guard:
            self._over = True
        os.rename(self._digest, self._digest, src_dir_fd=self._partial, dst_dir_fd=self._blobs)
        self._marks.forget(self._digest)
        file, blobs = os.dup(self._file), self._blobs
        self._syncer.submit(lambda: confirm(file, blobs))
        return computed

    def close(self) -> None:
        """Close the file; what was received stays for a later attempt, and is on the disk when this returns."""
        with contextlib.suppress(OSError):  # a disk that fails now: the last mark counts
            self._mark(self._file, Mark(self.received_bytes, self._hash.hexdigest()))
        os.close(self._file)

    def _mark_soon(self) -> None:
        file, mark = os.dup(self._file), Mark(self.received_bytes, self._hash.hexdigest())
        self._marking = True

        def work() -> None:
            try:
                self._mark(file, mark)
            finally:
                os.close(file)
                self._marked_s, self._marking = time.monotonic(), False

        self._syncer.submit(work)

    def _mark(self, file: int, mark: Mark) -> None:
        """Bring bytes and names to the disk, then note that they are there."""
        with self._guard:
            if self._over or mark.size <= self._marked_bytes:
                return
            os.fsync(file)
            os.fsync(self._partial)
            self._marks.write(self._digest, mark)
            self._marked_bytes = mark.size

    def _discard(self) -> None:
        with self._guard:
            self._over = True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._digest, dir_fd=self._partial)
            self._marks.forget(self._digest)


def confirm(file: int, directory: int) -> None:
    """Bring a whole file to the disk and note that in its mode, which is 0600 before and 0400 then; closes `file`."""
    try:
        os.fsync(file)
        os.fsync(directory)
        os.fchmod(file, 0o400)
        os.fsync(file)
    finally:
        os.close(file)


def is_confirmed(status: os.stat_result) -> bool:
    """Whether `confirm` was done with a file."""
    return not status.st_mode & stat.S_IWUSR


def is_ours(status: os.stat_result) -> bool:
    """A plain file with one name and our owner: a hard link or a link elsewhere is neither hashed nor run."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()


def disk_full(root: Path | None) -> AgentError:
    """The disk has no room."""
    where = f" of {root}" if root else ""
    message = f"the board's disk{where} is full: free some space there, or start the agent with another --data"
    return AgentError(Fault.EXHAUSTED, message)
