"""The ARM tree that agents of user mode run in: where it lies, what was taken for it, and whether it is there.

Below the user's cache folder: `qemu/trees/<id>/` holds `usr`, `lib` and `tree.json`; `qemu/current` names the newest.
All boards share one tree; processors differ in a few small files beside it (`rootfs`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError
from harness.targets.qemu.wheels import agent_requirements

#: Raised when trees of older versions cannot be used any more.
FORMAT = 1
MANIFEST = "tree.json"


class PackageTaken(BaseModel):
    """A Debian package in a tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    sha256: str


class WheelTaken(BaseModel):
    """A wheel in a tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class Manifest(BaseModel):
    """What a tree was made of, as `tree.json` holds it.

    Args:
        python: "3.11".
        glibc: (2, 36).
        requirements: of the agent it was made for.
        pins: the host's versions then.
        built_s: how long it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    python: str
    glibc: tuple[int, int]
    requirements: tuple[str, ...]
    pins: tuple[str, ...]
    packages: tuple[PackageTaken, ...]
    wheels: tuple[WheelTaken, ...]
    built_s: float

    @property
    def identity(self) -> str:
        """Of all that was taken: 16 hex digits."""
        taken = sorted([one.sha256 for one in self.packages] + [one.sha256 for one in self.wheels])
        return hashlib.sha256("\n".join((str(self.format), self.python, *taken)).encode()).hexdigest()[:16]

    @property
    def onnxruntime(self) -> str | None:
        """Version of the runtime in it."""
        return next((one.file.split("-")[1] for one in self.wheels if one.file.startswith("onnxruntime-")), None)


@dataclass(frozen=True, slots=True)
class Tree:
    """A finished tree."""

    path: Path
    manifest: Manifest

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "usr" / "bin" / f"python{self.manifest.python}"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the tree from being removed meanwhile, by any process of this machine."""
        with (self.path / MANIFEST).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield


def home() -> Path:
    """The folder of everything here."""
    return user_cache_path("quantrig") / "qemu"


def current_tree(target: str) -> Tree:
    """The tree to use.

    Args:
        target: name in targets.yaml, for the message.

    Raises:
        UserError: there is none, or it was made for an agent with other needs.
    """
    tree = newest_tree()
    remedy = f"`quantrig targets provision {target}` makes it (under two minutes, once)"
    if tree is None:
        raise UserError(f"{target}: its ARM system for `via: qemu` is not on this machine yet; {remedy}")
    if list(tree.manifest.requirements) != agent_requirements():
        raise UserError(f"{target}: its ARM system was made for another version of the agent; {remedy}")
    return tree


def newest_tree() -> Tree | None:
    """The tree that was made last; None when there is none, or none of this format."""
    try:
        path = home() / "trees" / (home() / "current").read_text().strip()
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    return Tree(path, manifest) if manifest.format == FORMAT else None


def keep(partial: Path, manifest: Manifest) -> Tree:
    """Make a finished tree the current one; older ones that nobody uses are removed.

    Args:
        partial: folder of the tree, on the same file system as `home()`.
        manifest: written into it.
    """
    path = home() / "trees" / manifest.identity
    (partial / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    remove(path)
    if path.exists():  # somebody uses a tree of the very same content
        delete(partial)
    else:
        partial.rename(path)
    pointer = home() / "current.new"
    pointer.write_text(manifest.identity + "\n")
    pointer.replace(home() / "current")
    for other in (home() / "trees").iterdir():
        if other != path and (other / MANIFEST).is_file():
            remove(other)
    return Tree(path, manifest)


def remove(path: Path) -> bool:
    """Delete a tree that nobody uses; whether it is gone."""
    if not path.exists():
        return True
    try:
        with (path / MANIFEST).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            doomed = path.with_name(f"{path.name}.removed-{os.getpid()}")
            path.rename(doomed)
    except FileNotFoundError:
        doomed = path  # never finished
    except BlockingIOError:
        return False
    delete(doomed)
    return True


def delete(path: Path) -> None:
    """Remove a folder of ours with all it holds; packages may hold folders without the right to write."""
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)
