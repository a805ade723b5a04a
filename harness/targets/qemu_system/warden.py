"""Keeps an emulator from outliving the host that started it. Run as a file, with the standard library only.

    python warden.py [--remove DIR]… -- qemu-system-aarch64 …

The emulator is started as a child. It ends when our standard input does (the host has ended, however it did), when we
are told to (SIGTERM), and when we are killed (the kernel's parent-death signal). Folders named are removed at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

#: prctl(2).
_PR_SET_PDEATHSIG = 1
#: Between SIGTERM and SIGKILL, s: an emulator writes its disks within that.
_END_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run the command and guard it; its exit status."""
    words = list(arguments)
    remove: list[str] = []
    while words and words[0] == "--remove":
        remove.append(words[1])
        del words[:2]
    libc = ctypes.CDLL(None, use_errno=True)
    ourselves = os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != ourselves:  # we were killed before the line above
            os._exit(1)

    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        # Nothing else runs in this process that could hold a lock while it forks.
        child = subprocess.Popen(words[1:], stdin=subprocess.DEVNULL, preexec_fn=tie)  # noqa: PLW1509
        _guard(child, wakeup_read)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
    finally:
        for folder in remove:
            shutil.rmtree(folder, ignore_errors=True)


def _guard(child: subprocess.Popen[bytes], wakeup: int) -> None:
    while child.poll() is None:
        ready, _, _ = select.select([0, wakeup], [], [])
        if 0 in ready and not os.read(0, 4096):
            break
        if wakeup in ready and set(os.read(wakeup, 4096)) - {signal.SIGCHLD}:
            break
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
