"""What a board was like before its settings were changed, kept where a crash of the agent does not reach it.

The file is on the disk before the first change and goes when the last one is given back: an agent that finds one at its
start was killed while it held the board's settings. What a reboot undoes by itself is told apart by the boot id.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MAX_FILE_BYTES = 256 << 10

#: Of one setting: what to write back, by names that the setting itself knows.
Snapshot = Mapping[str, str]


@dataclass(frozen=True)
class Kept:
    """What the file holds.

    Attributes:
        boot_id: of the boot in which it was written; "" when unknown.
        snapshots: by setting.
    """

    boot_id: str
    snapshots: Mapping[str, Snapshot]


class SettingsFile:
    """The file; whole or absent at any instant.

    Args:
        path: in the agent's own data directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Kept | None:
        """What is to be given back; None when there is nothing, or the file is not ours."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                found = json.loads(file.read(_MAX_FILE_BYTES))
        except (OSError, ValueError):
            return None
        snapshots = found.get("before") if isinstance(found, dict) else None
        if not isinstance(snapshots, dict):
            return None
        kept = {
            str(name): {str(key): str(value) for key, value in one.items()}
            for name, one in snapshots.items()
            if isinstance(one, dict)
        }
        return Kept(str(found.get("boot_id", "")), kept)

    def write(self, kept: Kept) -> None:
        """Keep it: on the disk when this returns.

        Raises:
            OSError: no space, or a file system that cannot be written.
        """
        temporary = self._path.with_suffix(".part")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
            json.dump({"boot_id": kept.boot_id, "before": kept.snapshots}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        sync_folder(self._path.parent)

    def remove(self) -> None:
        """Everything is given back."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
            sync_folder(self._path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
