"""A vendor's tool that prints a line at every interval, as one long child process without a thread beside it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from agents.boards.sources import tool_environment

#: A pipe holds 64 KiB: where so much waits, the tool stood still, and what it printed is old.
_FULL_BYTES = 60 << 10
_CHUNK_BYTES = 64 << 10
#: Between two bursts of what waited; well below a tool's interval.
_BURST_S = 0.02
#: A tool that took SIGTERM this long is killed.
_END_S = 1.0


class LineProcess:
    """The tool at work. When the agent dies, the tool's next line finds no reader and ends it (SIGPIPE).

    Args:
        command: path of the executable and its arguments.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=tool_environment(),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self._ended = False

    @property
    def pid(self) -> int:
        """Of the tool."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it will print no more."""
        return self._ended

    def lines(self, wait_s: float) -> list[str]:
        """The whole lines that came since the last call, oldest first.

        Args:
            wait_s: how long to wait for one where none came yet.
        """
        deadline = time.monotonic() + wait_s
        if len(data := self._drain()) >= _FULL_BYTES:
            self._drop_old_lines(deadline)
            data = b""
        found = self._split(data)
        while not found and self._await_line(deadline):
            found = self._split(self._drain())
        return found

    def close(self) -> None:
        """End the tool and bury it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
                break
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._ended = True

    def _await_line(self, deadline: float) -> bool:
        """Whether the tool may have printed something."""
        left = deadline - time.monotonic()
        if self._ended or left <= 0:
            return False
        return bool(select.select([self._pipe], [], [], left)[0])

    def _drop_old_lines(self, deadline: float) -> None:
        """What the tool could not get rid of is as old, and comes at once, in one burst or several."""
        self._rest = b""
        self._await_line(deadline)
        while self._drain() and self._await_line(min(deadline, time.monotonic() + _BURST_S)):
            pass

    def _drain(self) -> bytes:
        chunks = []
        while not self._ended:
            try:
                chunk = os.read(self._pipe, _CHUNK_BYTES)
            except BlockingIOError:
                break
            if not chunk:
                self._ended = True
            chunks.append(chunk)
        return b"".join(chunks)

    def _split(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_CHUNK_BYTES:]
        return [line.decode("utf-8", "replace") for line in whole]
