"""Where the networks of a loaded session are: at their places, beside the session, or unpacked from it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UserError
from harness.quantize.graph import sha256_of
from harness.wholefile import write_whole


@dataclass
class Unpacked:
    """A folder for networks that come out of a session, made when the first one does.

    Args:
        folder: the user's; None: a temporary one that is gone with this object.
    """

    folder: Path | None = None
    _temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False, repr=False)

    def put(self, name: str, data: bytes, digest: str) -> Path:
        """Write a network, whole or not at all; one that is there already is left.

        Raises:
            UserError: the folder cannot be written, or holds another network of that name.
        """
        if self.folder is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="quantrig-session-")
        folder = self.folder or Path(str(self._temporary and self._temporary.name))
        path = folder / name
        if is_network(path, digest):
            return path
        if path.exists():
            msg = f"{path}: is another network than the session's; choose another folder"
            raise UserError(msg)
        write_whole(path, data, "choose another folder")
        return path


def is_network(path: Path, digest: str) -> bool:
    """Whether the file is there and is that network."""
    try:
        return path.is_file() and sha256_of(path) == digest
    except (UserError, OSError):
        return False


def find_network(saved: Path, digest: str, beside: Path, data: bytes | None, unpacked: Unpacked) -> Path | None:
    """The network of that digest.

    Args:
        saved: where it was when the session was saved.
        digest: its sha256.
        beside: the session's folder.
        data: the network as it travels with the session; None where it does not.
        unpacked: where that one goes; a folder of the user's comes first.

    Returns:
        its path; None where it is nowhere.
    """
    if data is not None and unpacked.folder is not None:
        return unpacked.put(saved.name, data, digest)
    for path in (saved, beside / saved.name):
        if is_network(path, digest):
            return path
    return None if data is None else unpacked.put(saved.name, data, digest)


def missing(saved: Path) -> UserError:
    """The error for a float network that is nowhere."""
    if saved.exists():
        return UserError(f"{saved}: changed since the session was saved; give that network with model=…")
    return UserError(
        f"{saved}: no such network file, and none travels in the session file; say with model=… where it is now"
    )
