"""What a long sweep has finished, one JSON line a piece: written at once, read back when the sweep starts again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError


class Journal:
    """A file of finished pieces. Several sweeps may share one; each reads only the lines of its own key.

    Args:
        path: the file; made when the first piece is finished.
        key: of everything that the pieces depend on.

    Raises:
        UserError: the file cannot be read, or is no journal.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = Path(path)
        self.key = key
        #: piece → what was written of it.
        self.done: dict[str, Mapping[str, Any]] = {}
        self._torn = False
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            msg = f"{self.path}: the journal cannot be read ({error.strerror}); choose another file"
            raise UserError(msg) from error
        lines = content.split(b"\n")
        self._torn = bool(lines[-1])
        for number, line in enumerate(lines, 1):
            self._take(line, number, last=number == len(lines))

    def _take(self, line: bytes, number: int, *, last: bool) -> None:
        if not line.strip():
            return
        try:
            entry = json.loads(line)
            key, piece, value = entry["key"], entry["piece"], entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            # Torn lines are what a kill in mid-write leaves, here or where a later sweep went on.
            if last or line.startswith(b'{"key": "'):
                return
            msg = f"{self.path}, line {number}: not a journal of finished layers; choose another file"
            raise UserError(msg) from error
        if key == self.key:
            self.done[piece] = value

    def add(self, piece: str, value: Mapping[str, Any]) -> None:
        """Write a finished piece; it is on the disk when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        line = json.dumps({"key": self.key, "piece": piece, "value": value}) + "\n"
        if self._torn:
            line, self._torn = "\n" + line, False
        try:
            with self.path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            msg = f"{self.path}: the journal cannot be written ({error.strerror}); choose another place"
            raise UserError(msg) from error
        self.done[piece] = value


def fingerprint(*values: object) -> str:
    """sha256 of plain values, arrays and dataclasses, whatever objects hold them.

    Raises:
        TypeError: a value of another kind.
    """
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, value: object) -> None:
    # Each value is preceded by its kind and length, so that no two different ones feed the same bytes.
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        digest.update(f"array {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        named = [(field.name, getattr(value, field.name)) for field in fields(value)]
        digest.update(f"{type(value).__name__} {len(named)};".encode())
        for name, inner in named:
            _feed(digest, name)
            _feed(digest, inner)
    elif isinstance(value, Mapping):
        digest.update(f"map {len(value)};".encode())
        for key in sorted(value, key=str):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)};".encode())
        for inner in value:
            _feed(digest, inner)
    elif value is None or isinstance(value, str | bytes | int | float | Enum | Path):
        text = repr(value)
        digest.update(f"{type(value).__name__} {len(text)};{text}".encode())
    else:
        msg = f"no fingerprint of a {type(value).__name__}"
        raise TypeError(msg)
