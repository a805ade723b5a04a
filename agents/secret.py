"""The agent's own secret: what it authenticates files with that it kept for itself.

Only the serving process reads it. A network's process is given a key of that network alone, so one that was taken over
can forge what is kept for its own network and for no other one.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path

_BYTES = 32


class Secret:
    """32 random bytes in a file of mode 0600, made on first use; a file that is not ours is replaced.

    Args:
        path: of the file, in the agent's data directory.

    Raises:
        OSError: it can be neither read nor made.
    """

    def __init__(self, path: Path) -> None:
        self._key = _read(path) or _make(path)

    def key_for(self, purpose: str) -> bytes:
        """A key that tells nothing of the secret, nor of any other purpose's key."""
        return hmac.new(self._key, purpose.encode(), "sha256").digest()


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        data = file.read(_BYTES + 1)
    return data if ours and len(data) == _BYTES else None


def _make(path: Path) -> bytes:
    key = secrets.token_bytes(_BYTES)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(key)
    return key
