"""One file, there whole or not at all: a reader never sees half of it, and a full disk leaves the old one."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from harness.errors import UserError


def write_whole(path: Path, content: bytes, remedy: str) -> None:
    """Write a file beside its place, then move it there; its folder is made.

    Args:
        path: of the file; an older one is replaced.
        content: all of it.
        remedy: what the user can do where it cannot be written; ends the error's line.

    Raises:
        UserError: the place cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.part")  # two writers of one file do not meet
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
