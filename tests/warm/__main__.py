"""`python -m tests.warm FOLDER`: forks a command for every request at FOLDER/socket, until its stdin ends."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

#: What commands import when they need it.
MODULES = (
    *("harness.cli.main", "harness.api", "harness.runs.engine", "harness.report"),
    *("pandas", "scipy.stats", "pytest"),
)


def serve(folder: Path) -> dict[str, Any] | None:
    """Requests, one forked process each; returns in that process with what to run, in this one at the end."""
    for name in MODULES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would be missing in every process that is forked"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for pytest, which then ends this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        listener.setblocking(False)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            try:
                link, _ = listener.accept()
            except BlockingIOError:
                continue
            link.setblocking(True)
            if os.fork() == 0:
                listener.close()
                return _started(link)
            link.close()
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _started(link: socket.socket) -> dict[str, Any]:
    """In a process that waits for the command's end and tells it; returns in the command's own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(link, 1, 3)
    with link.makefile("r") as lines:
        request: dict[str, Any] = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        link.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # whoever asked had waited long enough and killed it
            link.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    link.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return request


def become(request: dict[str, Any]) -> None:
    """The process of `python -m MODULE` in its folder and environment, to its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    np.random.seed()  # the one generator that a fork does not seed anew
    sys.path[:1] = [request["cwd"], *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    wanted = serve(Path(sys.argv[1]))
    if wanted is not None:
        become(wanted)
