"""Keep the agent running on a board without systemd: start it, start it again when it ends, with growing pauses.

    python3 supervise.py FOLDER start | run | stop | status

FOLDER/run/supervisor.json says what to run. `start` leaves a supervisor behind (a second one finds the lock held and
ends), `stop` ends it and its agent. The agent's stdin is a pipe of the supervisor's: if that is killed, the agent ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

#: Between the end of an agent and its next start, seconds; doubled each time it lived less than STEADY_S.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
#: The agent ends its networks' processes itself; after this it is killed, seconds.
STOP_S = 15.0
#: Beyond this the log is set aside as agent.log.old when an agent starts, bytes.
LOG_BYTES = 1 << 20


def start(folder: Path) -> int:
    """A supervisor of its own session; returns when it holds the lock."""
    if _alive(folder):
        return 0
    read, write = os.pipe()
    subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).resolve()), str(folder), "run", str(write)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(write,),
        cwd="/",
    )
    os.close(write)
    said = os.read(read, 1)  # ends without a word when it could not begin
    return 0 if said or _alive(folder) else 1


def run(folder: Path, ready: int | None = None) -> int:
    """Supervise until SIGTERM."""
    with (folder / "run" / "supervisor.lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 1
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        if ready is not None:
            os.write(ready, b"1")
            os.close(ready)
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            began = time.monotonic()
            _once(folder, stop)
            if time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        (folder / "run" / "agent.pid").unlink(missing_ok=True)
        return 0


def _once(folder: Path, stop: threading.Event) -> None:
    """One life of the agent."""
    config = json.loads((folder / "run" / "supervisor.json").read_text())
    path = folder / "run" / "agent.log"
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.old"))
    with path.open("ab") as log:
        try:
            agent = subprocess.Popen(
                config["command"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=str(folder), close_fds=True
            )
        except OSError as error:
            log.write(f"{_now()} the agent cannot be started: {error}\n".encode())
            return
        (folder / "run" / "agent.pid").write_text(f"{agent.pid}\n")
        while agent.poll() is None and not stop.wait(0.2):
            pass
        if agent.poll() is None:
            agent.terminate()
            try:
                agent.wait(STOP_S)
            except subprocess.TimeoutExpired:
                agent.kill()
        code = agent.wait()
        log.write(f"{_now()} the agent ended with status {code}\n".encode())


def stop(folder: Path) -> int:
    """End the supervisor and its agent; returns when both have ended."""
    path = folder / "run" / "supervisor.lock"
    deadline = time.monotonic() + STOP_S + 5.0
    asked = False
    while _alive(folder):
        if not asked:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
                asked = True
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    return 0


def _alive(folder: Path) -> bool:
    try:
        with (folder / "run" / "supervisor.lock").open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main(folder: Path, action: str, ready: str | None = None) -> int:
    """Its exit status: 0 done (status: it runs), 1 not."""
    if action == "status":
        return 0 if _alive(folder) else 1
    if action == "run":
        return run(folder, None if ready is None else int(ready))
    return {"start": start, "stop": stop}[action](folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *sys.argv[2:]))
