"""Which wheels fit a board: a pure function from what it reports to pip's arguments, and a check of single files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from harness.errors import UserError
from harness.targets.ssh.report import BoardPython

#: Lowest glibc of the wheels on each processor, and the older names of its tags (PEP 513, 571, 599, 600).
_OLDEST_GLIBC = {"aarch64": 17, "x86_64": 5}
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class WheelChoice:
    """The wheels a board can install.

    Args:
        python: "3.11".
        abis: as pip's `--abi`, best first.
        platforms: as pip's `--platform`, best first.
        machine: "aarch64".
    """

    python: str
    abis: tuple[str, ...]
    platforms: tuple[str, ...]
    machine: str

    def pip_arguments(self) -> list[str]:
        """For `pip download`; binary wheels only, because nothing is compiled for a board here."""
        arguments = ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python]
        for abi in self.abis:
            arguments += ["--abi", abi]
        for platform in self.platforms:
            arguments += ["--platform", platform]
        return arguments

    def tags(self) -> set[Tag]:
        """Every tag that the board's pip accepts."""
        version = [int(part) for part in self.python.split(".")]
        own = [abi for abi in self.abis if abi not in {"abi3", "none"}]
        interpreter = f"cp{version[0]}{version[1]}"
        return {
            *cpython_tags(version, own, self.platforms),
            *compatible_tags(version, interpreter, self.platforms),
        }

    def environment(self) -> dict[str, str]:
        """What the environment markers of requirements are judged by (PEP 508)."""
        return {
            "implementation_name": "cpython", "implementation_version": f"{self.python}.0", "os_name": "posix",
            "platform_machine": self.machine, "platform_python_implementation": "CPython", "platform_release": "",
            "platform_system": "Linux", "platform_version": "", "python_full_version": f"{self.python}.0",
            "python_version": self.python, "sys_platform": "linux",
        }  # fmt: skip


def choose_wheels(target: str, python: BoardPython) -> WheelChoice:
    """What to ask pip for.

    Args:
        target: name in targets.yaml, for messages.
        python: the interpreter that will run the agent.

    Raises:
        UserError: a board for which no runtime is built; says what would do.
    """
    if python.bits == 32:
        raise UserError(
            f"{target}: its system is 32-bit ({python.machine}); ONNX Runtime has wheels for 64-bit only: install the "
            "64-bit system (Raspberry Pi OS 64-bit) on the board"
        )
    if python.machine not in _OLDEST_GLIBC:
        raise UserError(
            f"{target}: ONNX Runtime has no wheels for {python.machine}, only for {' and '.join(_OLDEST_GLIBC)}; "
            "build one, install quantrig-agent with it by hand, and name the agent's address in `via`"
        )
    if python.glibc is None:
        raise UserError(
            f"{target}: its C library is not glibc (Alpine, or another musl system); ONNX Runtime has wheels for glibc "
            "only: use a Debian, Ubuntu, or PetaLinux image"
        )
    oldest = _OLDEST_GLIBC[python.machine]
    major, minor = python.glibc
    if major != 2 or minor < max(oldest, 17):
        raise UserError(
            f"{target}: its glibc {major}.{minor} is older than 2.17, the oldest that wheels are built for; "
            "use a newer system"
        )
    platforms: list[str] = []
    for number in range(minor, oldest - 1, -1):
        platforms.append(f"manylinux_2_{number}_{python.machine}")
        if number in _OLD_NAMES:
            platforms.append(f"{_OLD_NAMES[number]}_{python.machine}")
    platforms.append(f"linux_{python.machine}")  # wheels that vendors and users build on the board itself
    digits = f"{python.version[0]}{python.version[1]}"
    return WheelChoice(
        f"{python.version[0]}.{python.version[1]}", (f"cp{digits}", "abi3", "none"), tuple(platforms), python.machine
    )


def check_wheel(target: str, path: Path, choice: WheelChoice) -> None:
    """Refuse a wheel that the board could not install.

    Raises:
        UserError: not there, not a wheel, or for another Python or processor.
    """
    if not path.is_file():
        raise UserError(f"{target}: no file {path}; correct `wheel` in `runtime` of targets.yaml")
    try:
        _, _, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise UserError(f"{target}: {path.name} is not named as a wheel is; keep the name it came with") from error
    if not tags & choice.tags():
        shown = ", ".join(sorted(map(str, tags))[:3])
        raise UserError(
            f"{target}: {path.name} is for {shown}; the board has Python {choice.python} on {choice.machine}: "
            "bring the wheel for that"
        )


def requirements_of(wheel: Path, choice: WheelChoice, extras: Iterable[str] = ()) -> list[Requirement]:
    """What a wheel needs on the board, its environment markers judged for the board and not for this machine.

    Raises:
        UserError: the file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: not a wheel ({error}); fetch it again") from error
    found: list[Requirement] = []
    for line in metadata.get_all("Requires-Dist") or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # of a package so old that today's pip would skip it too
        environment = choice.environment()
        wanted = ("", *extras)
        if requirement.marker is None or any(
            requirement.marker.evaluate({**environment, "extra": extra}) for extra in wanted
        ):
            found.append(requirement)
    return found


def missing_requirements(wheels: Sequence[Path], choice: WheelChoice) -> list[str]:
    """Requirements of `wheels` that none of them fulfils.

    pip judges environment markers by the Python it runs under, which is this machine's: what only the board's Python
    needs is therefore looked for here.

    Args:
        wheels: files.
        choice: of the board.
    """
    names = {canonicalize_name(parse_wheel_filename(path.name)[0]) for path in wheels}
    missing: dict[str, None] = {}
    for wheel in wheels:
        for requirement in requirements_of(wheel, choice):
            if canonicalize_name(requirement.name) not in names:
                extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
                missing[f"{requirement.name}{extras}{requirement.specifier}"] = None
    return list(missing)
