"""Ctrl-C and SIGTERM: stop the run, keep what is finished, leave no process behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import ExitCode, QuantrigError


class Interrupted(QuantrigError):
    """The user stopped the run; what was finished is kept and `quantrig resume` goes on from there."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, run_id: str | None = None) -> None:
        hint = f"; `quantrig resume {run_id}` goes on from here" if run_id else ""
        super().__init__(f"interrupted{hint}")


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM instead of raising in the middle of a write; elsewhere than in the main
    thread (pytest-xdist, a notebook's worker) signals are somebody else's and stay untouched.
    """  # noqa: D205 (one thought)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
