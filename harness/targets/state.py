"""Where this user's lasting notes about boards live: quarantine, logs of consoles and of power switches."""

from __future__ import annotations

import re
from pathlib import Path

from platformdirs import user_state_path


def state_path(*parts: str) -> Path:
    """A path below the user's state folder (`~/.local/state/quantrig` on Linux); nothing is made."""
    return user_state_path("quantrig").joinpath(*parts)


def state_folder(*parts: str) -> Path:
    """A folder below the user's state folder, made when it is not there."""
    folder = state_path(*parts)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def file_name(name: str) -> str:
    """`name` as a file name: letters, digits, dot, dash and underscore, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "_"
