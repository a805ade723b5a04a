"""What a compiler built for one network, kept between runs in the agent's own folder.

An engine is native code: whoever can write one is whoever runs on the board. So nothing that was kept is used unless
it carries the agent's own authentication code over what it was built from and every byte of it, and never where it
lies: the bytes that were checked are written into the process's private folder, and the compiler's library reads those.

`FOLDER/<sha256 of the facts>/entry.json` lists `files`, the digests of the plain files `0`, `1`, … beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

#: Networks whose engines are kept; the oldest ones go first.
MAX_ENTRIES = 32
#: Of one entry. TensorRT's engines are about as large as the network's weights.
MAX_ENTRY_BYTES = 2 << 30
_MAX_FILES = 256
_MAX_LIST_BYTES = 1 << 20
_LIST = "entry.json"
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")


class BuiltStore:
    """Compiled files of one network by the facts they were built from.

    Args:
        folder: the agent's own, mode 0700.
        key: for this network only; see `agents.secret`.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key

    def fetch(self, facts: Mapping[str, str], into: Path) -> bool:
        """Write what was kept under these facts below `into`; False when there is nothing, or it is not ours.

        What is damaged or forged is removed, and built anew.
        """
        entry = self._folder / _name(facts)
        if not entry.exists():
            return False
        try:
            files = self._checked(entry, facts)
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(entry, ignore_errors=True)
            return False
        for name, data in files.items():
            path = into / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, data)
        with contextlib.suppress(OSError):
            os.utime(entry)
        return True

    def keep(self, facts: Mapping[str, str], made: Path) -> bool:
        """Keep every plain file below `made`; False when there is none, or too much."""
        found = dict(_plain_files(made))
        size_bytes = sum(path.stat().st_size for path in found.values())
        if not found or len(found) > _MAX_FILES or size_bytes > MAX_ENTRY_BYTES:
            return False
        entry = self._folder / _name(facts)
        partial = self._folder / f".{secrets.token_hex(8)}"
        partial.mkdir(mode=0o700)
        try:
            files = []
            for number, (name, path) in enumerate(sorted(found.items())):
                data = path.read_bytes()
                _write(partial / str(number), data)
                files.append({"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
            body = {"facts": dict(facts), "files": files}
            _write(partial / _LIST, json.dumps({**body, "mac": self._mac(body)}).encode())
            shutil.rmtree(entry, ignore_errors=True)
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()
        return True

    def _checked(self, entry: Path, facts: Mapping[str, str]) -> dict[str, bytes]:
        """The files' bytes, each read once.

        Raises:
            OSError, ValueError, KeyError, TypeError: not ours, in one way or another.
        """
        listed = json.loads(_read(entry / _LIST, _MAX_LIST_BYTES))
        body = {"facts": dict(facts), "files": listed["files"]}
        if listed["facts"] != body["facts"] or not hmac.compare_digest(str(listed["mac"]), self._mac(body)):
            raise ValueError("not made by this agent for this network")
        files: dict[str, bytes] = {}
        for number, one in enumerate(listed["files"]):
            name = str(one["name"])
            if not all(_PART.match(part) for part in name.split("/")):
                raise ValueError("a name that leaves the folder")
            data = _read(entry / str(number), MAX_ENTRY_BYTES)
            if hashlib.sha256(data).hexdigest() != one["sha256"]:
                raise ValueError("damaged")
            files[name] = data
        return files

    def _mac(self, body: Mapping[str, object]) -> str:
        return hmac.new(self._key, json.dumps(body, sort_keys=True).encode(), "sha256").hexdigest()

    def _prune(self) -> None:
        entries = [path for path in self._folder.iterdir() if path.is_dir()]
        entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in entries[MAX_ENTRIES:]:
            shutil.rmtree(path, ignore_errors=True)


def _name(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def _plain_files(folder: Path) -> list[tuple[str, Path]]:
    """Relative name and path of what is worth keeping: no links, no names that could not be written back."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if stat.S_ISREG(path.lstat().st_mode) and all(_PART.match(part) for part in name.split("/")):
            found.append((name, path))
    return found


def _read(path: Path, limit_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > limit_bytes:
            raise ValueError("not a plain file of this agent")
        return file.read()


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
