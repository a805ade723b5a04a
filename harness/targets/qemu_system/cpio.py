"""An initial RAM disk as the kernel unpacks it: cpio in the `newc` format.

Described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

_MAGIC = b"070701"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive; it belongs to root.

    Args:
        content: of a file; the target of a symbolic link.
        mode: kind and permission bits, as `stat` has them.
        device: major and minor number of a device.
    """

    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    device: tuple[int, int] = (0, 0)


def folder(mode: int = 0o755) -> Entry:
    """A folder."""
    return Entry(mode=stat.S_IFDIR | mode)


def link(to: str) -> Entry:
    """A symbolic link."""
    return Entry(to.encode(), stat.S_IFLNK | 0o777)


def program(content: bytes) -> Entry:
    """A file that can be run."""
    return Entry(content, stat.S_IFREG | 0o755)


def archive(entries: Mapping[str, Entry]) -> bytes:
    """The archive; folders on the way to a file are added. Equal entries make equal bytes."""
    every = dict(entries)
    for name in entries:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            every.setdefault("/".join(parts[:count]), folder())
    pieces = [_record(number, name, every[name]) for number, name in enumerate(sorted(every), start=1)]
    return b"".join((*pieces, _record(0, "TRAILER!!!", Entry(mode=0))))


def _record(number: int, name: str, entry: Entry) -> bytes:
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    encoded = name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(encoded), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
