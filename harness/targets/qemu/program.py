"""Programs of this machine that emulated boards need: how to install one, and which version it is."""

from __future__ import annotations

import os
import re
import subprocess
from functools import lru_cache

from harness.errors import UserError

#: A program that is asked for its version prints one line.
_ANSWER_S = 10.0


def install_hint(*packages: str) -> str:
    """What this user types, or asks for, to have Debian's packages installed."""
    install = f"apt-get install --no-install-recommends {' '.join(packages)}"
    return install if os.geteuid() == 0 else f"ask for `sudo {install}`"


@lru_cache
def version_of(path: str, title: str, *, package: str, target: str) -> str:
    """The version that a program of QEMU's says it is.

    Args:
        path: of the program.
        title: the words before the version in its answer.
        package: of Debian that has it, for the message.
        target: name in targets.yaml, for the message.

    Raises:
        UserError: it says something else, or nothing.
    """
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    match = re.match(rf"{re.escape(title)} version (\d+(?:\.\d+)+)", said)
    if match is None:
        raise UserError(f"{target}: {path} does not say which QEMU it is; install {package} again")
    return match[1]
