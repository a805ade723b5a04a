"""A console's log file: every line with the time at which its end arrived."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

#: A chatty board fills this in about a day at 115,200 baud with a line a second; one older file is kept beside it.
MAX_LOG_BYTES = 16 << 20


def stamp(unix_s: float) -> str:
    """`2026-11-21T18:00:00.123Z`: UTC, milliseconds."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TimedLog:
    """Appends lines with their times; a file that grows beyond `max_bytes` is set aside as `<name>.old`.

    Args:
        path: its folder is made. The file is readable by this user only: a console shows what people type.
        max_bytes: of one file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._size_bytes = os.fstat(self._file.fileno()).st_size

    def _open(self) -> IO[bytes]:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return os.fdopen(descriptor, "ab", buffering=0)

    def write(self, text: str, unix_s: float) -> None:
        """One line that came at `unix_s`."""
        line = f"{stamp(unix_s)} {text}\n".encode("utf-8", "replace")
        if self._size_bytes and self._size_bytes + len(line) > self._max_bytes:
            self._file.close()
            self.path.replace(self.path.with_name(self.path.name + ".old"))
            self._file = self._open()
            self._size_bytes = 0
        self._file.write(line)
        self._size_bytes += len(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
