"""One reader for one console: a lock that knows who holds it.

Two readers of one serial line each get a part of what it says, and neither notices.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import Refused
from harness.targets.console.log import stamp
from harness.targets.state import state_folder


def console_key(url: str) -> str:
    """What names the same console however it is written: a device's real path, a URL without its options."""
    parts = urlsplit(url)
    if parts.scheme and "://" in url:
        return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path.rstrip('/')}"
    return os.path.realpath(url)


@contextmanager
def console_lock(target: str, url: str, purpose: str) -> Iterator[None]:
    """Hold the console at `url` for as long as the block runs; the kernel releases it when this process dies.

    Args:
        target: name in targets.yaml.
        url: as in its `console:`.
        purpose: told to whoever comes second, e.g. "run 20261121-180000".

    Raises:
        Refused: somebody else reads it; the message says who.
    """
    key = console_key(url)
    path = state_folder("consoles") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(target, f"its console {url} is in use by {_holder(descriptor)}; end that first") from None
        os.truncate(descriptor, 0)
        note = {"pid": os.getpid(), "user": _user(), "purpose": purpose, "since": stamp(time.time())}
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"{note['purpose']} (pid {note['pid']}, {note['user']}, since {note['since']})"
    except (ValueError, KeyError, TypeError):  # between its lock and its note
        return "another quantrig process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this number, as in a container
        return f"uid {os.getuid()}"


def holders_of_device(device: str) -> list[str]:
    """Which processes have a device open, as far as this user may see: `minicom (pid 4321)`."""
    real = os.path.realpath(device)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # gone meanwhile, or another user's
            if any(os.path.realpath(link) == real for link in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                found.append(f"{name} (pid {process.name})")
    return sorted(found)
