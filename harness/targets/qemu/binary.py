"""The emulator itself: where it is, and which version."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.targets.qemu.program import install_hint, version_of

_NAMES = ("qemu-aarch64-static", "qemu-aarch64")
_PACKAGE = "qemu-user-static"


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
        raise UserError(
            f"{target}: `via: qemu` needs qemu-aarch64-static, which is not installed; {install_hint(_PACKAGE)}, "
            "or write `via: emulated`"
        )
    return Qemu(Path(found), version_of(found, "qemu-aarch64", package=_PACKAGE, target=target))
