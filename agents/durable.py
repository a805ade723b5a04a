"""What of a file is certainly on the disk, so that a power cut leaves nothing that only looks like it.

A file that was written and not synchronised may have its full length after a power cut and hold zeros. So an unfinished
upload counts up to its last mark only, a note of so many bytes with their sha256 that is written after the bytes are on
the disk; what a later upload builds on is held against it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

#: A mark is a line `SIZE SHA256`; anything longer is none.
_MARK_BYTES = 128


@dataclass(frozen=True, slots=True)
class Mark:
    """So many first bytes of an unfinished file are on the disk.

    Args:
        size: of them.
        sha256: of them, in hexadecimal.
    """

    size: int
    sha256: str


class Marks:
    """One file a mark, in a private directory.

    Args:
        directory: descriptor of it; not closed here.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def read(self, name: str) -> Mark | None:
        """The mark of a file; None where there is none that can be read."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            return None
        with contextlib.closing(os.fdopen(descriptor, "rb")) as file:
            words = file.read(_MARK_BYTES).split()
        if len(words) != 2 or not words[0].isdigit() or len(words[1]) != 64:
            return None
        return Mark(int(words[0]), words[1].decode("ascii", "replace"))

    def write(self, name: str, mark: Mark) -> None:
        """Put a mark in the place of an older one: after a power cut it is the one or the other.

        Raises:
            OSError: the disk is full or failed.
        """
        new = f"{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, f"{mark.size} {mark.sha256}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(new, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    def forget(self, name: str) -> None:
        """Remove a mark, if there is one."""
        for one in (name, f"{name}.new"):
            with contextlib.suppress(OSError):
                os.unlink(one, dir_fd=self._directory)

    def keep_only(self, names: set[str]) -> None:
        """Remove the marks of files that are gone."""
        for name in os.listdir(self._directory):
            if name not in names:
                self.forget(name)


class Syncer:
    """A thread on which files are brought to the disk, while their senders go on sending."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="syncer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Do this soon; a job that fails says nothing: what it would have made certain stays uncertain."""
        self._jobs.put(job)

    def close(self) -> None:
        """Finish what was submitted."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with contextlib.suppress(OSError):
                job()
