"""The files an agent holds, each named by its sha256: uploads that resume, a quota, nothing that follows a link.

`DIR/blobs/<digest>` are complete, `DIR/partial/<digest>` unfinished files; `DIR/marks/<digest>` says how much of such a
file is on the disk for certain, and no more of it counts after a power cut. A host never names a path, and no archive
is ever opened: the only thing that arrives is the bytes of one file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.durable import Mark, Marks, Syncer
from agents.faults import AgentError, Fault
from agents.receiver import Receiver, confirm, disk_full, is_confirmed, is_ours

#: Left free on the file system that other programs share.
_SPARE_BYTES = 16 << 20
#: An unfinished upload nobody came back for in a week.
_STALE_S = 7 * 86400.0
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
        self._mark_folder = _private_directory(root / "marks")
        self._marks = Marks(self._mark_folder)
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
        self._check_unconfirmed()
        self._syncer = Syncer()

    def close(self) -> None:
        """Let another agent use the directory; what was received is on the disk then."""
        self._syncer.close()
        os.close(self._blobs)
        os.close(self._partial)
        os.close(self._mark_folder)
        os.close(self._lock_file)

    def has(self, digest: str) -> bool:
        """Whether the complete file is here."""
        return _regular_size(digest, self._blobs) is not None

    def held_bytes(self, digest: str) -> int:
        """Bytes of an unfinished upload that survive a power cut; while it goes on, those that came."""
        with self._changed:
            if digest in self._uploading:
                return _regular_size(digest, self._partial) or 0
            mark = self._marked(digest)
            return 0 if mark is None else mark.size

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
        if not is_ours(os.fstat(descriptor)):
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
            freed = _unlink(digest, self._blobs) + self._drop_partial(digest)
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
            mark = self._marked(digest)
            held = 0 if mark is None else mark.size
            if offset != held:
                message = f"{digest[:12]}…: offset {offset}, but {held} bytes are held: resume there"
                raise AgentError(Fault.INVALID, message)
            if held > size_bytes:
                self._drop_partial(digest)
                message = f"{digest[:12]}…: {held} bytes were held of a file declared as {size_bytes}: start again at 0"
                raise AgentError(Fault.INVALID, message)
            self._reserve(digest, size_bytes, held)
            try:
                receiver = Receiver(self._partial, self._blobs, digest, size_bytes, mark, self._marks, self._syncer)
                with contextlib.closing(receiver):
                    yield receiver
            finally:
                with self._changed:
                    del self._reserved[digest]

    def _marked(self, digest: str) -> Mark | None:
        """What is certain of an unfinished file; the rest, perhaps written just before a power cut, is cut off."""
        size = _regular_size(digest, self._partial)
        mark = self._marks.read(digest)
        if not size or mark is None or not 0 < mark.size <= size:
            if size is not None:
                self._drop_partial(digest)
            return None
        if mark.size < size:
            descriptor = os.open(digest, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._partial)
            try:
                os.ftruncate(descriptor, mark.size)
            finally:
                os.close(descriptor)
        return mark

    def _drop_partial(self, digest: str) -> int:
        """Forget an unfinished file; the bytes freed."""
        self._marks.forget(digest)
        return _unlink(digest, self._partial)

    def _check_unconfirmed(self) -> None:
        """Files that were whole but perhaps not on the disk yet when the board or the agent ended."""
        for name, _ in self._files(self._blobs):
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._blobs)
                status = os.fstat(file)
                if not is_ours(status) or is_confirmed(status):
                    os.close(file)
                elif _sha256(file) == name:
                    confirm(file, self._blobs)
                else:
                    os.close(file)
                    os.unlink(name, dir_fd=self._blobs)

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
                raise disk_full(self.root)
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
        self._marks.keep_only({name for name, _ in self._files(self._partial)})


def _private_directory(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _regular_size(name: str, directory: int) -> int | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return status.st_size if is_ours(status) else None


def _sha256(file: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while piece := os.pread(file, 1 << 20, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def _unlink(name: str, directory: int) -> int:
    try:
        size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
        os.unlink(name, dir_fd=directory)
    except OSError:
        return 0
    return size
