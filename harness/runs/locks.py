"""Who may use a machine or a board right now: across threads and across processes of one host.

A timed block must be alone on its physical machine, while untimed work (uploads, inference for accuracy) may share it.
A board serves one run at a time. Both are advisory file locks (flock), which the kernel releases when a holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.errors import Refused, UserError
from harness.runs.interrupt import Interrupted

#: How often a waiting process looks again, s: a hundredth of the shortest block profile's section.
_POLL_S = 0.02


def _lock_path(kind: str, name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"quantrig-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        message = f"{folder} belongs to another user; remove it or set TMPDIR"
        raise UserError(message)
    return folder / f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"


@contextmanager
def _held(path: Path, mode: int, stop: threading.Event, waiting: Callable[[], None] | None) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting is not None and not told:
                    waiting()
                    told = True
                if stop.wait(_POLL_S):
                    raise Interrupted from None
        yield
    finally:
        os.close(descriptor)  # closing releases the lock


@contextmanager
def machine_shared(machine_id: str, stop: threading.Event) -> Iterator[None]:
    """Hold the machine for untimed work, together with others.

    A gate in front of the lock lets a waiting timed section in before new untimed work, so that it is never starved.
    """
    with _held(_lock_path("gate", machine_id), fcntl.LOCK_EX, stop, None):
        pass
    with _held(_lock_path("machine", machine_id), fcntl.LOCK_SH, stop, None):
        yield


@contextmanager
def machine_alone(machine_id: str, stop: threading.Event, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the machine alone, for timed blocks.

    Args:
        machine_id: as the agent describes it: equal for all agents on one physical machine.
        stop: ends the wait with `Interrupted`.
        waiting: called once when others hold the machine.
    """
    with (
        _held(_lock_path("gate", machine_id), fcntl.LOCK_EX, stop, waiting),
        _held(_lock_path("machine", machine_id), fcntl.LOCK_EX, stop, waiting),
    ):
        yield


@contextmanager
def board_alone(
    board_key: str,
    stop: threading.Event,
    waiting: Callable[[], None] | None = None,
    *,
    purpose: str = "another run",
) -> Iterator[None]:
    """Hold one board for one run; a second run (or pytest worker) waits.

    Args:
        board_key: from `board.board_key`.
        stop: ends the wait with `Interrupted`.
        waiting: called once when somebody else holds the board.
        purpose: told to who does not want to wait, e.g. "run 20261121-180000-ab12".
    """
    path = _lock_path("board", board_key)
    with _held(path, fcntl.LOCK_EX, stop, waiting):
        _note(path, purpose)
        yield


@contextmanager
def board_now(target: str, board_key: str, purpose: str) -> Iterator[None]:
    """Hold one board, or be told at once who holds it.

    Args:
        target: name in targets.yaml.
        board_key: from `board.board_key`.
        purpose: told to who comes second.

    Raises:
        Refused: somebody else holds it; the message says who.
    """
    path = _lock_path("board", board_key)
    at_once = threading.Event()
    at_once.set()
    with ExitStack() as stack:
        try:
            stack.enter_context(_held(path, fcntl.LOCK_EX, at_once, None))
        except Interrupted:
            raise Refused(target, f"in use by {_holder(path)}") from None
        _note(path, purpose)
        yield


def _note(path: Path, purpose: str) -> None:
    """Who holds a lock, for `_holder`; whoever comes later overwrites it."""
    path.write_text(json.dumps({"pid": os.getpid(), "purpose": purpose}), encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"{note['purpose']} (pid {note['pid']})"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its note
        return "another quantrig process"
