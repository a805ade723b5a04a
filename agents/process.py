"""One child process: started with a fixed environment and a limit, watched, and buried with its cause of death."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.config import MEBIBYTE
from agents.faults import AgentError, Fault, one_line
from agents.frames import Channel, ChannelClosed, ChannelTimeout, Frame, Kind
from agents.limits import Limit

#: Kept of what a child writes to stdout and stderr: enough for a traceback.
_TAIL_BYTES = 8192
#: A killed process is gone in milliseconds; one stuck in a driver may take longer, or never go.
_BURIAL_S = 5.0
#: Descriptors a runtime needs are few; a leak should fail in the child, not on the board.
_OPEN_FILES = 256
_POLL_S = 0.2


def child_environment(home: str) -> dict[str, str]:
    """The whole environment of a child: nothing of the agent's own, and nothing a host could set."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # Since 1.29 ONNX Runtime's official Linux builds report model names, producers and hashes to their maker
        # unless told not to before they are loaded; a lab's networks stay in the lab.
        "ORT_DISABLE_TELEMETRY": "1",
    }


class ChildProcess:
    """`python -m agents.child` at work: frames to and from it, its limits, and why it ended.

    Args:
        task: what the child is told first, as JSON.
        limit: its memory limit; removed when the process has ended.
        limit_bytes: for the message when it was reached.
        descriptors: file descriptors it inherits, under the same numbers.
        homes: where its empty working directory is made.

    Raises:
        AgentError: EXHAUSTED when no process can be started.
    """

    def __init__(
        self, task: dict[str, object], limit: Limit, limit_bytes: int, descriptors: Sequence[int], homes: Path
    ) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._verdict = ""  # why we ended it, when we did
        self._tail = bytearray()
        self._ended = threading.Event()
        self._cause = ""
        # An empty directory nobody else can write to: a runtime that looks for files by relative path finds none.
        self._home = tempfile.TemporaryDirectory(dir=homes, ignore_cleanup_errors=True)
        ours, theirs = socket.socketpair()
        self.started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-m", "agents.child", str(theirs.fileno()), str(os.getpid())],
                cwd=self._home.name,
                env=child_environment(self._home.name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), *descriptors),
                start_new_session=True,  # Ctrl-C at a terminal is for the agent, which ends its children itself
            )
        except OSError as error:
            ours.close()
            limit.remove()
            self._home.cleanup()
            message = f"the board cannot start a process: {error.strerror}: unload other networks"
            raise AgentError(Fault.EXHAUSTED, message) from None
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._channel = Channel(ours)
        threading.Thread(target=self._watch, name=f"child-{self.pid}", daemon=True).start()
        try:
            # The child waits for its task: nothing has been parsed yet when the limits come into force.
            limit.apply(self.pid)
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
            self._channel.send(Kind.START, json.dumps(task).encode(), time.monotonic() + _BURIAL_S)
        except ProcessLookupError:
            pass  # it died already: the first receive says how
        except OSError as error:
            self.end(f"its limits could not be set: {error.strerror}")
            raise AgentError(Fault.EXHAUSTED, f"the board cannot limit a process: {error.strerror}") from None
        except (ChannelClosed, ChannelTimeout):
            pass  # as above

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return not self._ended.is_set()

    @property
    def cause(self) -> str:
        """Why it ended: "crashed: …" or "ended: …"; "" while it runs."""
        return self._cause

    def send(self, kind: Kind, payload: bytes = b"", timeout_s: float = _BURIAL_S) -> None:
        """Send one frame.

        Raises:
            AgentError: CRASHED, or TIMED_OUT when the child stopped reading.
        """
        try:
            self._channel.send(kind, payload, time.monotonic() + timeout_s)
        except ChannelTimeout:
            raise self._too_late(f"the network's process took no input for {timeout_s:g} s") from None
        except ChannelClosed as closed:
            raise self._dead(closed) from None

    def receive(self, what: str, timeout_s: float, waiting: Callable[[], bool] | None = None) -> Frame:
        """The next frame, whatever it is but an error.

        Args:
            what: is being done, for the message: "the batch".
            timeout_s: the child is ended when it takes longer.
            waiting: when given, asked now and then; the child is ended once it is false.

        Raises:
            AgentError: what the child says, or CRASHED, or TIMED_OUT.
        """
        deadline = time.monotonic() + timeout_s
        while waiting is not None and time.monotonic() < deadline and not self._channel.readable(_POLL_S):
            if not waiting():
                self.end("its host left")
                raise AgentError(Fault.TIMED_OUT, f"the caller left during {what}")
        try:
            frame = self._channel.receive(deadline)
        except ChannelTimeout:
            raise self._too_late(f"{what} ran past its limit of {timeout_s:g} s") from None
        except ChannelClosed as closed:
            raise self._dead(closed) from None
        if frame.kind is Kind.ERROR:
            raise frame.error()
        return frame

    def has_spoken(self, within_s: float = 0.0) -> bool:
        """Whether a frame (or the end) can be received now, or within that time."""
        return self._channel.readable(within_s)

    def interrupt(self) -> None:
        """Ask the child to leave a warm-up or a block early; the caller of it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGUSR1)

    def end(self, why: str) -> None:
        """End the process and wait until it is gone; `why` becomes its cause unless it had one."""
        if not self._ended.is_set():
            self._verdict = self._verdict or f"ended: {why}"
            # Its whole session: a process it may have started must not keep its output open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._ended.wait(_BURIAL_S)
        self._channel.close()

    def resident_bytes(self) -> int:
        """Of the process now; 0 when it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _too_late(self, what: str) -> AgentError:
        self.end(what)
        return AgentError(Fault.TIMED_OUT, f"{what}: its process was ended; prepare the network again")

    def _dead(self, closed: ChannelClosed) -> AgentError:
        if not self._ended.wait(_BURIAL_S):
            self.end(f"its channel broke ({closed})")
        return AgentError(Fault.CRASHED, f"{self._cause}: prepare the network again")

    def _watch(self) -> None:
        """Drain the child's output into the tail; its end is the process's end."""
        output = self._process.stdout
        assert output is not None  # Popen was given PIPE
        with output:
            while piece := os.read(output.fileno(), 4096):
                self._tail += piece
                del self._tail[:-_TAIL_BYTES]
        code = self._process.wait()
        self._cause = self._verdict or f"crashed: {self._how(code)}"
        self._limit.remove()
        self._home.cleanup()
        self._ended.set()

    def _how(self, code: int) -> str:
        if self._limit.exceeded():
            return f"killed by its memory limit of {self._limit_bytes // MEBIBYTE} MB"
        words = [line for line in self._tail.decode("utf-8", "replace").splitlines() if line.strip()]
        last = f" ({one_line(words[-1])[:200]})" if words else ""
        if code >= 0:
            return f"exit status {code}{last}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}{last}"
