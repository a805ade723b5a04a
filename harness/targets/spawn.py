"""Agents that run on this machine as processes of ours: started, watched and ended, by their own pid only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from agents import protocol
from harness.errors import Unreachable
from harness.targets.errors_map import CallCancelled
from harness.targets.validate import clean_text

#: A cold start from a slow disk; an agent serves within a second when warm.
START_TIMEOUT_S = 30.0
#: After the end of its stdin, and again after SIGTERM, before the next stronger means, seconds.
END_TIMEOUT_S = 5.0
#: How much of the log's end is searched for a last word, bytes.
LOG_TAIL_BYTES = 8192
#: Oldest log is cut away beyond this when an agent starts, bytes.
LOG_KEPT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run an agent.

    Args:
        command: its first words.
        environment: all of it.
        data_limit_bytes: of private memory (RLIMIT_DATA), for the agent and each process it starts, where the agent
            itself cannot limit its networks by control groups; None: no limit.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    data_limit_bytes: int | None = None


class AgentProcess:
    """One running `python -m agents serve`.

    Args:
        target: name in targets.yaml.
        process: started as the leader of its own session, stdin and stdout piped.
        log: where its words go.
    """

    def __init__(self, target: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self._target = target
        self._process = process
        self._log = log
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._memory_limit = ""
        self._reader = threading.Thread(target=self._keep_words, name=f"log-{target}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the agent."""
        return self._process.pid

    @property
    def memory_limit(self) -> str:
        """How it limits the memory of its networks, as `Policy.memory_limit_kind`; "" before it serves."""
        return self._memory_limit

    def _keep_words(self) -> None:
        """Copy stdout to the log, and its first JSON line to whoever waits for it."""
        assert self._process.stdout is not None
        waiting = True
        with self._log.open("ab") as log, self._process.stdout as stdout:
            for line in stdout:
                log.write(line)
                log.flush()
                if waiting and line.startswith(b"{"):
                    self._said.put(line)
                    waiting = False
        self._said.put(None)

    def await_address(self, stop: threading.Event, timeout_s: float = START_TIMEOUT_S) -> str:
        """The loopback address it listens on, once it serves.

        Raises:
            Unreachable: it ended, or said nothing or nonsense within `timeout_s`.
            CallCancelled: `stop` was set meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._said.get(timeout=0.1)
                break
            except queue.Empty:
                if stop.is_set():
                    raise CallCancelled(self._target) from None
                if time.monotonic() > deadline:
                    raise Unreachable(
                        self._target, f"its agent did not start within {timeout_s:.0f} s; see {self._log}"
                    ) from None
        if line is None:
            self._process.wait(END_TIMEOUT_S)
            raise Unreachable(self._target, f"its agent did not start: {self.obituary()}; see {self._log}")
        try:
            ready = json.loads(line)
            address, pid = str(ready["listening"]), int(ready["pid"])
            self._memory_limit = str(ready.get("memory_limit", ""))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unreachable(self._target, f"its agent's first words make no sense; see {self._log}") from error
        if pid != self.pid or not re.fullmatch(r"127\.0\.0\.1:\d{1,5}", address):
            raise Unreachable(self._target, f"its agent listens where it was not told to; see {self._log}")
        return address

    def obituary(self) -> str | None:
        """How the process ended and its last words; None while it lives."""
        # The connection breaks a moment before the kernel has the exit status ready.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        if code is None:
            return None
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}{self._last_words()}"
            return f"killed by signal {-code}{self._last_words()}"
        return f"exit status {code}{self._last_words()}"

    def _last_words(self) -> str:
        self._reader.join(1.0)
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = [clean_text(line) for line in log.read().decode("utf-8", "replace").splitlines()]
        except OSError:
            return ""
        said = [line for line in lines if line and not line.startswith('{"listening"')]
        return f", last words: {said[-1]}; its log: {self._log}" if said else f"; its log: {self._log}"

    def end(self) -> None:
        """End the agent: end of its stdin, then SIGTERM, then SIGKILL to it and whatever it left in its session."""
        process = self._process
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        for signal_number in (None, signal.SIGTERM):
            if signal_number is not None and process.poll() is None:
                process.send_signal(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
                break
        else:
            # The agent is alive, so its pid is still its own, and the group of that number holds only its children.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._reader.join(END_TIMEOUT_S)


@contextmanager
def spawned_agent(
    target: str,
    board: str,
    *,
    emulated: bool,
    work_dir: Path,
    stop: threading.Event,
    interpreter: Interpreter | None = None,
) -> Iterator[tuple[AgentProcess, str]]:
    """An agent process and its address, for as long as the block runs.

    Args:
        target: name in targets.yaml.
        board: board kind.
        emulated: it only stands in for the board.
        work_dir: its log is kept in `work_dir/<target>/agent.log`.
        stop: gives up the wait for its start.
        interpreter: runs it; None: our own.

    Raises:
        Unreachable: it does not start.
    """
    python = interpreter or Interpreter((sys.executable,), _environment())
    folder = work_dir / safe_name(target)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "agent.log"
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(_data_dir(target))
        errors = stack.enter_context(_open_log(log))
        arguments = ["--listen", "127.0.0.1:0", "--board", board, "--data", str(data)]
        arguments += ["--exit-on-stdin-eof", "--ready-json", *(["--emulated"] if emulated else [])]
        process = subprocess.Popen(
            [*python.command, "-m", "agents", "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=dict(python.environment),
            start_new_session=True,  # the terminal's Ctrl-C is for the host, which then ends its agents in order
        )
        agent = AgentProcess(target, process, log)
        stack.callback(agent.end)
        address = agent.await_address(stop)
        # A control group ends a process that takes too much. An allocation that fails at this limit is worse: QEMU may
        # search for room for ever, and the network is then told to have timed out.
        if python.data_limit_bytes is not None and not agent.memory_limit.startswith("cgroup-"):
            with contextlib.suppress(ProcessLookupError):  # it ended already; the first call says so
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (python.data_limit_bytes,) * 2)
        yield agent, address


def safe_name(name: str) -> str:
    """A target's name as a file name: letters, digits, dot, dash and underscore, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "_"


def _environment() -> dict[str, str]:
    """Ours, with the place that `agents` is imported from: the agent does not start in our working directory."""
    root = str(Path(protocol.__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root}


def _open_log(log: Path) -> IO[bytes]:
    if log.exists() and log.stat().st_size > LOG_KEPT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    return log.open("ab")


@contextmanager
def _data_dir(target: str) -> Iterator[Path]:
    """The target's own data directory, so that a second run sends nothing; a private one while another run has it."""
    home = user_cache_path("quantrig") / "agents"
    data = home / safe_name(target)
    lock: FileLock | None = None
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / f"{safe_name(target)}.lock", timeout=0)
        lock.acquire()
        data.mkdir(mode=0o700, exist_ok=True)
        _await_agents_lock(data)
    except (Timeout, OSError):  # in use, or a home directory that cannot be written
        if lock is not None:
            lock.release()
        lock = None
    if lock is None:
        private = Path(tempfile.mkdtemp(prefix="quantrig-agent-"))
        try:
            yield private
        finally:
            shutil.rmtree(private, ignore_errors=True)
        return
    try:
        yield data
    finally:
        lock.release()


def _await_agents_lock(data: Path) -> None:
    """Wait for the agent of a host that was killed a moment ago: it ends when its stdin does, and holds this lock.

    Raises:
        BlockingIOError: an agent of somebody else lives there.
    """
    with (data / "lock").open("ab") as file:
        deadline = time.monotonic() + 2.0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return
