"""The files an agent holds, each named by its sha256: uploads that resume, a quota, nothing that follows a link.

`DIR/blobs/<digest>` are complete, `DIR/partial/<digest>` unfinished files. A host never names a path, and no archive is
ever opened: the only thing that arrives is the bytes of one file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.faults import AgentError, Fault
from agents.protocol import CHUNK_BYTES

#: Left free on the file system that other programs share.
_SPARE_BYTES = 16 << 20
#: An unfinished upload nobody came back for in a week.
_STALE_S = 7 * 86400.0
_READ_BYTES = 1 << 20
_POLL_S = 0.2
#: No lab has as many networks; a flood of tiny files would exhaust inodes before it met the quota.
_MAX_FILES = 10_000


class StoreBusy(Exception):
    """Another agent uses this data directory."""


class ArtifactStore:
    """Files by digest below one private directory, which no second agent may use at the same time.

    Attributes:
        homes: an empty directory in it for the working directories of children.
        built: a directory in it for what runtimes compile.

    Args:
        root: the data directory; made with mode 0700.
        quota_bytes: of all files together, unfinished ones included.
        max_artifact_bytes: of one file.

    Raises:
        StoreBusy: another process holds the directory.
        OSError: the directory cannot be made or is not ours.
    """

    def __init__(self, root: Path, quota_bytes: int, max_artifact_bytes: int) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        self.max_artifact_bytes = max_artifact_bytes
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.stat().st_uid != os.geteuid():
            raise PermissionError(f"{root} belongs to another user: choose another --data directory")
        root.chmod(0o700)
        self._lock_file = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            raise StoreBusy(f"{root} is used by another agent: stop it or choose another --data directory") from None
        self._blobs = _private_directory(root / "blobs")
        self._partial = _private_directory(root / "partial")
        # Empty directories that children work in; those of an agent that was killed are still there.
        self.homes = root / "homes"
        shutil.rmtree(self.homes, ignore_errors=True)
        self.homes.mkdir(mode=0o700)
        self.built = root / "built"
        os.close(_private_directory(self.built))
        self._changed = threading.Condition()
        self._uploading: set[str] = set()
        self._reserved: dict[str, int] = {}  # bytes promised to uploads in progress, those on disk already included
        self._forget_stale()

    def close(self) -> None:
        """Let another agent use the directory."""
        os.close(self._blobs)
        os.close(self._partial)
        os.close(self._lock_file)

    def has(self, digest: str) -> bool:
        """Whether the complete file is here."""
        return _regular_size(digest, self._blobs) is not None

    def held_bytes(self, digest: str) -> int:
        """Bytes of an unfinished upload."""
        return _regular_size(digest, self._partial) or 0

    def used_bytes(self) -> int:
        """Bytes of all files, unfinished ones included."""
        return sum(size for _, size in self._files(self._blobs)) + sum(size for _, size in self._files(self._partial))

    def free_bytes(self) -> int:
        """Bytes free on the file system, for this user."""
        status = os.fstatvfs(self._blobs)
        return status.f_bavail * status.f_frsize

    def open(self, digest: str) -> int:
        """A read-only file descriptor of a complete file; the caller closes it.

        Raises:
            AgentError: NOT_FOUND.
        """
        try:
            descriptor = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._blobs)
        except OSError:
            raise AgentError(Fault.NOT_FOUND, f"{digest} is not on this board: upload it first") from None
        if not _is_ours(os.fstat(descriptor)):
            os.close(descriptor)
            raise AgentError(Fault.NOT_FOUND, f"{digest} is not a file of this agent: upload it again")
        return descriptor

    def remove(self, digest: str) -> int:
        """Forget a file, complete or not; the bytes freed.

        Raises:
            AgentError: NOT_FOUND, or REFUSED while it is being uploaded.
        """
        with self._changed:
            if digest in self._uploading:
                raise AgentError(Fault.REFUSED, f"{digest[:12]}… is being uploaded: wait for the end of that")
            freed = _unlink(digest, self._blobs) + _unlink(digest, self._partial)
        if not freed:
            raise AgentError(Fault.NOT_FOUND, f"{digest} is not on this board: nothing to remove")
        return freed

    @contextlib.contextmanager
    def receiving(
        self, digest: str, size_bytes: int, offset: int, waiting: Callable[[], bool]
    ) -> Iterator[Receiver | None]:
        """Take in one file; None when it is here already (perhaps since another host, meanwhile, sent it).

        Args:
            digest: already checked.
            size_bytes: of the whole file, as declared.
            offset: of the first byte to come; must equal the bytes held.
            waiting: false once the caller no longer waits for its turn.

        Raises:
            AgentError: INVALID (size, offset), EXHAUSTED (quota, disk), DATA_LOSS.
        """
        if not 0 < size_bytes <= self.max_artifact_bytes:
            message = f"{digest[:12]}…: a file of {size_bytes} bytes cannot be stored: 1 to {self.max_artifact_bytes}"
            raise AgentError(Fault.INVALID if not size_bytes else Fault.EXHAUSTED, message)
        with self._turn(digest, waiting):
            if self.has(digest):
                yield None
                return
            held = self.held_bytes(digest)
            if offset != held:
                message = f"{digest[:12]}…: offset {offset}, but {held} bytes are held: resume there"
                raise AgentError(Fault.INVALID, message)
            if held > size_bytes:
                _unlink(digest, self._partial)
                message = f"{digest[:12]}…: {held} bytes were held of a file declared as {size_bytes}: start again at 0"
                raise AgentError(Fault.INVALID, message)
            self._reserve(digest, size_bytes, held)
            try:
                with contextlib.closing(Receiver(self._partial, self._blobs, digest, size_bytes, held)) as receiver:
                    yield receiver
            finally:
                with self._changed:
                    del self._reserved[digest]

    @contextlib.contextmanager
    def _turn(self, digest: str, waiting: Callable[[], bool]) -> Iterator[None]:
        """Be the only one who writes this file."""
        with self._changed:
            while digest in self._uploading:
                self._changed.wait(_POLL_S)
                if not waiting():
                    raise AgentError(Fault.TIMED_OUT, f"{digest[:12]}…: left while another host uploads the same file")
            self._uploading.add(digest)
        try:
            yield
        finally:
            with self._changed:
                self._uploading.discard(digest)
                self._changed.notify_all()

    def _reserve(self, digest: str, size_bytes: int, held: int) -> None:
        """Promise the space, or refuse before the first byte."""
        with self._changed:
            files = [*self._files(self._blobs), *self._files(self._partial)]
            if len(files) >= _MAX_FILES:
                message = f"the board holds {len(files)} files, as many as it may: remove some"
                raise AgentError(Fault.EXHAUSTED, message)
            # Bytes on disk of an upload in progress are part of what was promised to it: not counted twice.
            used = sum(size for name, size in files if name not in self._reserved and name != digest)
            promised = used + sum(self._reserved.values())
            if promised + size_bytes > self.quota_bytes:
                message = (
                    f"quota: {size_bytes} bytes do not fit beside {promised} of {self.quota_bytes}: "
                    "remove files from the board or raise --quota-mb"
                )
                raise AgentError(Fault.EXHAUSTED, message)
            if size_bytes - held + _SPARE_BYTES > self.free_bytes():
                raise _disk_full(self.root)
            self._reserved[digest] = size_bytes

    def _files(self, directory: int) -> list[tuple[str, int]]:
        with os.scandir(directory) as entries:
            found = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
            return found

    def _forget_stale(self) -> None:
        with os.scandir(self._partial) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S:
                        os.unlink(entry.name, dir_fd=self._partial)


class Receiver:
    """One upload in progress: bytes in order, hashed as they are written."""

    def __init__(self, partial: int, blobs: int, digest: str, size_bytes: int, held: int) -> None:
        self._partial = partial
        self._blobs = blobs
        self._digest = digest
        self._size_bytes = size_bytes
        self.received_bytes = held
        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        if not held:
            with contextlib.suppress(FileNotFoundError):  # an empty leftover, or a link planted there
                os.unlink(digest, dir_fd=partial)
            flags |= os.O_CREAT | os.O_EXCL
        self._file = os.open(digest, flags, 0o600, dir_fd=partial)
        if not _is_ours(os.fstat(self._file)):
            os.close(self._file)
            raise AgentError(Fault.NOT_FOUND, f"{digest[:12]}…: what is held is no file of this agent: start again")
        while piece := os.read(self._file, _READ_BYTES):
            self._hash.update(piece)

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
                raise _disk_full(None) from None
            raise AgentError(Fault.EXHAUSTED, f"the board cannot store the file: {error.strerror}") from None
        self._hash.update(chunk)
        self.received_bytes += len(chunk)

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
        # Not synchronised to the disk: whoever uses the file checks its digest again, so a lost write is noticed.
        os.fchmod(self._file, 0o400)
        os.rename(self._digest, self._digest, src_dir_fd=self._partial, dst_dir_fd=self._blobs)
        return computed

    def close(self) -> None:
        """Close the file; what was received stays for a later attempt."""
        os.close(self._file)

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._digest, dir_fd=self._partial)


def _private_directory(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_ours(status: os.stat_result) -> bool:
    """A plain file with one name and our owner: a hard link or a link elsewhere is neither hashed nor run."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()


def _regular_size(name: str, directory: int) -> int | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return status.st_size if _is_ours(status) else None


def _unlink(name: str, directory: int) -> int:
    try:
        size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
        os.unlink(name, dir_fd=directory)
    except OSError:
        return 0
    return size


def _disk_full(root: Path | None) -> AgentError:
    where = f" of {root}" if root else ""
    message = f"the board's disk{where} is full: free some space there, or start the agent with another --data"
    return AgentError(Fault.EXHAUSTED, message)
