"""The Python half of a tree: the agent's dependencies as wheels for aarch64, in the versions that this host has."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.errors import UserError

AGENT = "quantrig-agent"
#: What runs networks on an ARM board's processor.
_EXTRA = "onnxruntime"
#: Oldest glibc that wheels for aarch64 are built for: manylinux2014 (PEP 599).
_OLDEST_GLIBC = 17

Progress = Callable[[str, float, float | None], None]


def agent_requirements() -> list[str]:
    """What the agent of this installation needs beside itself, as pip takes it.

    Raises:
        UserError: the agent is not installed here as a package.
    """
    try:
        needed = metadata.requires(AGENT) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"{AGENT} is not installed in this environment; install it as the README says") from None
    parsed = [Requirement(text) for text in needed]
    chosen = [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": _EXTRA})]
    return sorted(f"{one.name}{one.specifier}" for one in chosen)


def installed_versions(requirements: Sequence[str]) -> list[str]:
    """The versions of `requirements` and of all they need, as this environment has them: `name==version` lines.

    So the board computes with the very ONNX Runtime that the host compares with.
    """
    found: dict[str, str] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            distribution = metadata.distribution(one.name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        todo += [Requirement(text) for text in distribution.requires or ()]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def platform_arguments(python: str, glibc: tuple[int, int]) -> list[str]:
    """Pip's options for wheels of an aarch64 Linux.

    Args:
        python: "3.11".
        glibc: of the tree; wheels for it and older ones fit.
    """
    tag = "cp" + python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(glibc[1], _OLDEST_GLIBC - 1, -1)]
    given = [word for name in (*platforms, "manylinux2014_aarch64") for word in ("--platform", name)]
    abis = [word for abi in (tag, "abi3", "none") for word in ("--abi", abi)]
    return [*given, "--python-version", python, "--implementation", "cp", *abis, "--only-binary=:all:"]


def fetch_wheels(
    target: str, folder: Path, requirements: Sequence[str], python: str, glibc: tuple[int, int], progress: Progress
) -> list[Path]:
    """Download the wheels; a folder that was completed for the same wishes is taken as it is.

    Args:
        target: name in targets.yaml, for messages.
        folder: of downloaded wheels; one folder below it for each set of wishes.
        requirements: from `agent_requirements`.
        python: of the tree.
        glibc: of the tree.
        progress: phase, done, total.

    Raises:
        UserError: pip cannot get them.
    """
    pins = installed_versions(requirements)
    wishes = "\n".join((*requirements, *pins, python, repr(glibc)))
    place = folder / hashlib.sha256(wishes.encode()).hexdigest()[:16]
    complete = place / "complete"
    if not complete.is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        options = [*platform_arguments(python, glibc), "--dest", str(place)]
        constraints = place / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n")
        said = _pip(["download", *options, "--constraint", str(constraints), *requirements], len(pins), progress)
        if said is not None:
            # This host's Python may have versions that were never built for the tree's: the newest that fit, then.
            said = _pip(["download", *options, *requirements], len(pins), progress)
        if said is not None:
            raise UserError(f"{target}: pip has no wheels for aarch64 and Python {python}: {said}")
        complete.touch()
    return sorted(place.glob("*.whl"))


def install_wheels(target: str, wheels: Sequence[Path], site: Path, python: str, glibc: tuple[int, int]) -> None:
    """Unpack wheels as pip does, into `site`.

    Raises:
        UserError: pip cannot.
    """
    arguments = ["install", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
    said = _pip([*arguments, *platform_arguments(python, glibc), *map(str, wheels)], None, lambda *_: None)
    if said is not None:
        raise UserError(f"{target}: pip could not unpack the wheels: {said}")


def _pip(arguments: Sequence[str], total: int | None, progress: Progress) -> str | None:
    """Run pip with this machine's own configuration; None, or its last error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for done, _ in enumerate(_collected(process.stdout, lines)):
            progress("wheels", done, total)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code == 0:
        return None
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    return re.sub(r"^ERROR: ", "", errors[-1]).strip()[:200]


def _collected(output: Iterator[str], lines: list[str]) -> Iterator[str]:
    """Names of the projects that pip turns to; everything it says is kept in `lines`."""
    for line in output:
        lines.append(line.rstrip())
        if line.startswith("Collecting "):
            yield line.split()[1]
