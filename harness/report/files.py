"""Text files that are written together: every one complete, or the old ones stay."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UserError


def write_files(contents: Mapping[Path, str]) -> None:
    """Write UTF-8 files, making their folders; each under another name before the first replaces its predecessor.

    Raises:
        UserError: a place cannot be written; what was there stays.
    """
    try:
        replace_all(contents)
    except OSError as error:
        where = error.filename or ", ".join(dict.fromkeys(str(path.parent) for path in contents))
        msg = f"{where}: cannot be written ({error.strerror or error}); choose another place"
        raise UserError(msg) from error


def replace_all(contents: Mapping[Path, str]) -> None:
    """Write every file beside its place, then move all into place: a full disk leaves the old ones as they were.

    Raises:
        OSError: a place cannot be written.
    """
    mark = secrets.token_hex(4)
    temporary = {path: path.with_name(f".{mark}.{index}.part") for index, path in enumerate(contents)}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("x", encoding="utf-8", newline="") as file:
                file.write(content)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
