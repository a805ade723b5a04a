"""The bundle as a file: a zip of stored entries of which exactly one form exists for given contents.

Any unzip opens it. Nothing in it is compressed, so nothing can expand; names are relative and plain; and because each
byte of headers and directory follows from the entries, a reader finds a bit that was changed anywhere, also where an
ordinary one would not look (times, attributes, comments). Layout: PKWARE APPNOTE 6.3.10, 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.errors import UserError

#: Sizes and offsets are 32-bit, as in the plain zip format.
MAX_BYTES = (1 << 32) - 1
MAX_ENTRIES = 20_000
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,199}(?:/[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,199}){0,7}")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
#: Version 2.0, no flags, stored, 1980-01-01 00:00: the earliest date the format has, in the place of a real one.
_VERSION, _FLAGS, _STORED, _TIME, _DATE = 20, 0, 0, 0, 0x21
#: Made on Unix; a regular file that its owner may write and all may read.
_MADE_BY, _ATTRIBUTES = (3 << 8) | 20, 0o100644 << 16
_PIECE = 1 << 20


class Damaged(Exception):
    """The file is not what was written; the message says where."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as found.

    Args:
        name: relative, of plain characters, no `..`.
        offset: of its content in the file.
        size_bytes: of the content.
        crc: CRC-32 by its header.
        actual_crc: of the content.
        sha256: of the content, lower-case hex.
    """

    name: str
    offset: int
    size_bytes: int
    crc: int
    actual_crc: int
    sha256: str


def name_is_plain(name: str) -> bool:
    """Whether an entry may be called that: no absolute path, no `..`, no character that means something to a shell."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def write_container(out: BinaryIO, contents: Mapping[str, bytes | Path]) -> None:
    """Write the entries in the order given.

    Args:
        out: a file opened for writing.
        contents: by name; files are read as a stream.

    Raises:
        UserError: too much for the format.
        ValueError: a name that is not plain.
    """
    if len(contents) > MAX_ENTRIES:
        raise UserError(f"the bundle would have {len(contents):,} entries, at most {MAX_ENTRIES:,} fit: fewer runs")
    directory: list[bytes] = []
    offset = 0
    for name, content in contents.items():
        if not name_is_plain(name):
            msg = f"{name!r} is no name for an entry"
            raise ValueError(msg)
        crc, size = _crc_of(content)
        if offset + size + 4096 > MAX_BYTES:
            raise UserError("the bundle would be larger than 4 GiB: set `outputs: digests` in the policy")
        out.write(_local_header(name, crc, size))
        for piece in _pieces(content):
            out.write(piece)
        directory.append(_central_header(name, crc, size, offset))
        offset += _LOCAL.size + len(name) + size
    end = b"".join(directory)
    out.write(end + _end(len(directory), len(end), offset))


def _crc_of(content: bytes | Path) -> tuple[int, int]:
    crc = size = 0
    for piece in _pieces(content):
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    return crc, size


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _local_header(name: str, crc: int, size: int) -> bytes:
    raw = name.encode("ascii")
    return _LOCAL.pack(_LOCAL_MARK, _VERSION, _FLAGS, _STORED, _TIME, _DATE, crc, size, size, len(raw), 0) + raw


def _central_header(name: str, crc: int, size: int, offset: int) -> bytes:
    raw = name.encode("ascii")
    packed = _CENTRAL.pack(
        *(_CENTRAL_MARK, _MADE_BY, _VERSION, _FLAGS, _STORED, _TIME, _DATE, crc, size, size, len(raw)),
        *(0, 0, 0, 0, _ATTRIBUTES, offset),
    )
    return packed + raw


def _end(entries: int, size: int, offset: int) -> bytes:
    return _END.pack(_END_MARK, 0, 0, entries, entries, size, offset, 0)


class Container:
    """A bundle opened for reading: every byte of it is accounted for when this returns without `faults`.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.faults: list[str] = []
        try:
            if path.exists() and not path.is_file():  # a pipe would wait for ever, a device never end
                raise UserError(f"{path}: is no file; give the bundle's")
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise Damaged("larger than 4 GiB: no bundle is")
            with path.open("rb") as file:
                self._read(file, size)
        except Damaged as fault:
            self.faults.append(str(fault))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error

    def content(self, name: str) -> bytes:
        """The whole content of an entry.

        Raises:
            KeyError: there is none.
        """
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size_bytes)

    def _read(self, file: BinaryIO, size: int) -> None:
        offset, before = 0, "the beginning"
        while (mark := file.read(4)) == _LOCAL_MARK:
            if len(self.entries) >= MAX_ENTRIES:
                raise Damaged(f"more than {MAX_ENTRIES:,} entries")
            entry = self._entry(file, offset, size, before)
            if entry.name in self.entries:
                raise Damaged(f"{entry.name}: there twice")
            self.entries[entry.name] = entry
            offset, before = entry.offset + entry.size_bytes, entry.name
        self._directory(mark + file.read(), offset, before)

    def _entry(self, file: BinaryIO, offset: int, size: int, before: str) -> Entry:
        rest = file.read(_LOCAL.size - 4)
        if len(rest) < _LOCAL.size - 4:
            raise Damaged(f"cut off after {before}")
        fields = _LOCAL.unpack(_LOCAL_MARK + rest)
        crc, length, name_length = fields[6], fields[7], fields[9]
        raw = file.read(min(name_length, 1000))
        name = raw.decode("ascii", errors="replace")
        if not name_is_plain(name):
            raise Damaged(f"the entry after {before} has the name {name[:80]!r}, which no entry of a bundle has")
        if _LOCAL_MARK + rest + raw != _local_header(name, crc, length):
            raise Damaged(f"{name}: its header was touched")
        start = offset + _LOCAL.size + len(raw)
        if start + length > size:
            raise Damaged(f"{name}: says it has {length:,} bytes, the file ends before")
        digest, actual, left = hashlib.sha256(), 0, length
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise Damaged(f"{name}: cut off")
            digest.update(piece)
            actual = zlib.crc32(piece, actual)
            left -= len(piece)
        if actual != crc:
            self.faults.append(f"{name}: its content and its header do not belong together")
        return Entry(name, start, length, crc, actual, digest.hexdigest())

    def _directory(self, found: bytes, offset: int, before: str) -> None:
        position = 0
        for entry in self.entries.values():
            at = entry.offset - _LOCAL.size - len(entry.name)
            expected = _central_header(entry.name, entry.crc, entry.size_bytes, at)
            if found[position : position + len(expected)] != expected:
                raise Damaged(f"{entry.name}: its line in the directory at the end was touched or is missing")
            position += len(expected)
        if found[position:] != _end(len(self.entries), position, offset):
            where = "the end of the file was touched" if self.entries else "this is no bundle"
            raise Damaged(f"{where}, after {before}" if self.entries else where)
