"""A console in this terminal: every key goes to the board, Ctrl-C too; Ctrl-] ends."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import Unreachable
from harness.targets.console.watch import ConsoleWatch

#: Ctrl-], which ends telnet, picocom's kin and virsh console too.
END_KEY = b"\x1d"
_POLL_S = 0.1


class Screen:
    """Where a console's bytes go: straight to a file descriptor, the whole of them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, data: bytes) -> None:
        """Write everything; a reader that has gone is no error of the console."""
        view = memoryview(data)
        with contextlib.suppress(OSError):  # a pipe whose reader left, a terminal that was closed
            while view:
                view = view[os.write(self._descriptor, view) :]


def interact(
    watch: ConsoleWatch,
    keys: int,
    *,
    timeout_s: float | None,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> str:
    """Pass keys on until Ctrl-], the end of input, the time-out or `stop`.

    Args:
        watch: of the board's console; its `on_bytes` shows what the board says.
        keys: descriptor of the keyboard; a terminal is raw meanwhile and restored afterwards.
        timeout_s: None: as long as the user likes.
        stop: ends it from another thread or a signal.
        on_ready: called once every key goes to the board; what is typed before is dropped.

    Returns:
        Why it ended: "key", "input", "timeout" or "stop".
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with _raw(keys):
        if on_ready is not None:
            on_ready()
        while True:
            if stop is not None and stop.is_set():
                return "stop"
            left_s = _POLL_S if deadline is None else min(_POLL_S, deadline - time.monotonic())
            if left_s <= 0:
                return "timeout"
            if not select.select([keys], [], [], left_s)[0]:
                continue
            try:
                typed = os.read(keys, 1024)
            except OSError:  # the terminal is gone
                return "input"
            if not typed:
                return "input"
            before, end, _ = typed.partition(END_KEY)
            if before:
                with contextlib.suppress(Unreachable):  # lost at this moment: like a cable that is out, keys go nowhere
                    watch.send(before)
            if end:
                return "key"


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
