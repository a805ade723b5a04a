"""Boards that no run may use until a person has looked at them: a note in the user's state folder.

Nothing lifts a quarantine by itself; `quantrig targets release NAME` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Quarantined
from harness.targets.console.log import stamp
from harness.targets.state import file_name, state_path

if TYPE_CHECKING:
    from harness.targets.target import Target


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a board is set aside.

    Args:
        target: its name when that happened.
        since: UTC, ISO 8601.
        reason: one line.
    """

    target: str
    since: str
    reason: str

    @property
    def sentence(self) -> str:
        """For a table or an error."""
        return (
            f"quarantined since {self.since}: {self.reason}; look at it, then: quantrig targets release {self.target}"
        )


def quarantine(target: Target, reason: str) -> Quarantine:
    """Set a board aside, until `release`."""
    path = _path(target)
    made = Quarantine(target.name, stamp(time.time()), " ".join(reason.split())[:1000])
    text = json.dumps({"target": made.target, "since": made.since, "reason": made.reason}) + "\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)  # a reader sees a whole note or none
    return made


def quarantined(target: Target) -> Quarantine | None:
    """The board's quarantine; None where it has none. A note that cannot be read still sets the board aside."""
    path = _path(target)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return Quarantine(target.name, str(note["since"]), str(note["reason"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return Quarantine(target.name, "an unknown time", f"its note {path} cannot be read")


def must_be_free(target: Target) -> None:
    """Refuse a board that is set aside.

    Raises:
        Quarantined: it is.
    """
    found = quarantined(target)
    if found is not None:
        raise Quarantined(target.name, found.sentence)


def release(target: Target) -> bool:
    """End a board's quarantine; whether it had one."""
    with contextlib.suppress(FileNotFoundError):
        _path(target).unlink()
        return True
    return False


def _path(target: Target) -> Path:
    """By the board itself, not by its name in one lab file: two labs may call two boards the same."""
    board = f"address {target.via.address}" if target.via.kind == "address" else f"{target.base} {target.entry_name}"
    mark = hashlib.sha256(board.encode()).hexdigest()[:12]
    label = "" if target.via.kind == "address" else f"{file_name(target.entry_name)}-"
    return state_path("quarantine", f"{label}{mark}.json")
