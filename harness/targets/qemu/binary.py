"""The emulator itself: where it is, and which version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.errors import UserError

_NAMES = ("qemu-aarch64-static", "qemu-aarch64")
#: It prints one line.
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Qemu:
    """An installed qemu-aarch64 of user mode."""

    path: Path
    version: str

    @property
    def title(self) -> str:
        """As reports name it."""
        return f"QEMU {self.version}, user mode"


def find_qemu(target: str) -> Qemu:
    """The emulator on this machine.

    Args:
        target: name in targets.yaml, for the message.

    Raises:
        UserError: none is installed, or what is called so is something else.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        install = "apt-get install --no-install-recommends qemu-user-static"
        how = install if os.geteuid() == 0 else f"ask for `sudo {install}`"
        raise UserError(
            f"{target}: `via: qemu` needs qemu-aarch64-static, which is not installed; {how}, or write `via: emulated`"
        )
    return Qemu(Path(found), _version(found, target))


@lru_cache
def _version(path: str, target: str) -> str:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    match = re.match(r"qemu-aarch64 version (\d+(?:\.\d+)+)", said)
    if match is None:
        raise UserError(f"{target}: {path} does not say which QEMU it is; install qemu-user-static again")
    return match[1]
