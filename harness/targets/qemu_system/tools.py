"""The programs that emulated boards need: the emulator, its disk tool, and the maker of file systems."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from harness.errors import UserError
from harness.targets.qemu.program import install_hint, version_of

#: Program, package. mke2fs is in /sbin, which a user's PATH may lack.
_PROGRAMS = (("qemu-system-aarch64", "qemu-system-arm"), ("qemu-img", "qemu-utils"), ("mke2fs", "e2fsprogs"))


@dataclass(frozen=True, slots=True)
class Tools:
    """Where they are.

    Args:
        emulator: qemu-system-aarch64.
        disk: qemu-img.
        file_system: mke2fs.
        version: of QEMU.
    """

    emulator: str
    disk: str
    file_system: str
    version: str

    @property
    def title(self) -> str:
        """As reports name it."""
        return f"QEMU {self.version}, system mode"


def find_tools(target: str) -> Tools:
    """The programs on this machine.

    Args:
        target: name in targets.yaml, for the message.

    Raises:
        UserError: one lacks; the remedy installs all of them.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    found = {program: shutil.which(program, path=path) for program, _ in _PROGRAMS}
    lacking = [package for program, package in _PROGRAMS if found[program] is None]
    if lacking:
        raise UserError(f"{target}: an emulated board needs {' and '.join(lacking)}: {install_hint(*lacking)}")
    emulator, disk, file_system = (str(found[program]) for program, _ in _PROGRAMS)
    version = version_of(emulator, "QEMU emulator", package=_PROGRAMS[0][1], target=target)
    return Tools(emulator, disk, file_system, version)
