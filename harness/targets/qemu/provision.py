"""Making the ARM tree: Debian packages, Python wheels, compiled modules; each step taken up where it was left."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.targets.qemu.binary import Qemu, find_qemu
from harness.targets.qemu.debian import Package, fetch_packages, unpack
from harness.targets.qemu.tree import (
    FORMAT,
    Manifest,
    PackageTaken,
    Tree,
    WheelTaken,
    delete,
    home,
    keep,
    newest_tree,
    remove,
)
from harness.targets.qemu.wheels import agent_requirements, fetch_wheels, install_wheels, installed_versions

Progress = Callable[[str, float, float | None], None]

#: Modules that no agent imports; compiling them under the emulator would take half the time.
_NOT_COMPILED = r"/(tests?|transformers|tools|quantization|idlelib|lib2to3|distutils)/"
#: Where Debian's Python looks for packages, below its prefix.
_SITE = Path("usr/lib/python3/dist-packages")


def provision(
    target: str, *, apt_sources: Path | None = None, fresh: bool = False, progress: Progress
) -> tuple[Tree, bool]:
    """Make the tree unless the present one fits this installation.

    Whatever was downloaded is kept: a second call after an interruption takes up there.

    Args:
        target: name in targets.yaml, for messages.
        apt_sources: a sources.list to use instead of the machine's.
        fresh: take the newest packages and wheels although a tree is there.
        progress: phase, done, total.

    Returns:
        The tree, and whether it was made now.

    Raises:
        UserError: no emulator, no apt, no network, a full disk.
    """
    qemu = find_qemu(target)
    with _alone(target):
        tree = newest_tree()
        requirements = agent_requirements()
        pins = installed_versions(requirements)
        if tree is not None and not fresh:
            made_for = tree.manifest
            if (list(made_for.requirements), list(made_for.pins)) == (requirements, pins):
                return tree, False
        try:
            return _make(target, qemu, requirements, pins, apt_sources, progress), True
        except OSError as error:
            raise UserError(
                f"{target}: {error.filename or home()}: {error.strerror}; see to it and provision again"
            ) from error


def unprovision(target: str) -> bool:
    """Remove all trees and downloads; whether there were any.

    Raises:
        UserError: an agent runs in one of them.
    """
    if not home().exists():
        return False
    with _alone(target):
        trees = home() / "trees"
        left = [path for path in (trees.iterdir() if trees.is_dir() else ()) if not remove(path)]
        if left:
            raise UserError(f"{target}: an agent runs in its ARM system; end that run and try again")
        delete(home())
    return True


@contextmanager
def _alone(target: str) -> Iterator[None]:
    home().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home().with_name("qemu.lock"), timeout=0):
            yield
    except Timeout:
        raise UserError(f"{target}: another process provisions already; wait for it") from None


def _make(
    target: str,
    qemu: Qemu,
    requirements: Sequence[str],
    pins: Sequence[str],
    apt_sources: Path | None,
    progress: Progress,
) -> Tree:
    began = time.monotonic()
    taken = fetch_packages(target, home() / "apt", apt_sources, progress)
    partial = home() / "trees" / "partial"
    if partial.exists():
        delete(partial)
    unpack(target, [archive for _, archive in taken], partial, progress)
    python = _python_version(target, partial)
    glibc = _glibc_version([package for package, _ in taken])
    wheels = fetch_wheels(target, home() / "wheels", requirements, python, glibc, progress)
    progress("unpack wheels", 0, None)
    install_wheels(target, wheels, partial / _SITE, python, glibc)
    progress("compile", 0, None)
    _compile(target, qemu, partial, python)
    manifest = Manifest(
        format=FORMAT,
        python=python,
        glibc=glibc,
        requirements=tuple(requirements),
        pins=tuple(pins),
        packages=tuple(PackageTaken(name=p.name, version=p.version, sha256=p.sha256) for p, _ in taken),
        wheels=tuple(WheelTaken(file=w.name, sha256=hashlib.sha256(w.read_bytes()).hexdigest()) for w in wheels),
        built_s=round(time.monotonic() - began, 1),
    )
    return keep(partial, manifest)


def _python_version(target: str, tree: Path) -> str:
    found = sorted(path.name.removeprefix("python") for path in (tree / "usr" / "bin").glob("python3.*[0-9]"))
    if not found:
        raise UserError(f"{target}: the packages hold no Python; give other sources with --apt-sources FILE")
    return found[-1]


def _glibc_version(packages: Sequence[Package]) -> tuple[int, int]:
    version = next(package.version for package in packages if package.name == "libc6")
    major, minor = version.split("-")[0].split(".")[:2]
    return int(major), int(minor)


def _compile(target: str, qemu: Qemu, tree: Path, python: str) -> None:
    """Compile modules once: an agent has read-only use of the tree, and each child would compile them again."""
    guest = [str(qemu.path), "-L", str(tree), "-E", f"PYTHONHOME={tree / 'usr'}", str(tree / f"usr/bin/python{python}")]
    # Bytecode differs between versions of Python: where the host's is another one, the tree's own must write it.
    same = python == f"{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = [sys.executable] if same else guest
    folders = [str(tree / "usr/lib" / f"python{python}"), str(tree / _SITE)]
    options = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-x", _NOT_COMPILED]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [*interpreter, *options, *folders], capture_output=True, text=True, check=False, env=environment
    )
    # Packages hold a few files on purpose that are no Python; only an interpreter that does not run is a failure.
    if done.returncode not in {0, 1}:
        raise UserError(f"{target}: Python {python} does not run under {qemu.title}: exit status {done.returncode}")
