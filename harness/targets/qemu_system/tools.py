"""The programs that emulated boards need: the emulator, its disk tool, and the maker of file systems."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from harness.errors import UserError

#: Program, package. mke2fs is in /sbin, which a user's PATH may lack.
_PROGRAMS = (("qemu-system-aarch64", "qemu-system-arm"), ("qemu-img", "qemu-utils"), ("mke2fs", "e2fsprogs"))
_ANSWER_S = 10.0


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
        install = f"apt-get install --no-install-recommends {' '.join(lacking)}"
        how = install if os.geteuid() == 0 else f"ask for `sudo {install}`"
        raise UserError(f"{target}: an emulated board needs {' and '.join(lacking)}: {how}")
    emulator, disk, file_system = (str(found[program]) for program, _ in _PROGRAMS)
    return Tools(emulator, disk, file_system, _version(emulator, target))


@lru_cache
def _version(path: str, target: str) -> str:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    match = re.match(r"QEMU emulator version (\d+(?:\.\d+)+)", said)
    if match is None:
        raise UserError(f"{target}: {path} does not say which QEMU it is; install qemu-system-arm again")
    return match[1]
