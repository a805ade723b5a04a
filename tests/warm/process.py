"""Commands without a second and a half of imports each: a process that has them forks one for every command.

What runs is `python -m harness`, or pytest, as a process of its own, with its own folder, environment, streams and
exit status; it shares nothing but what Python had loaded before, none of which was called. Tests of signals, of what
is imported and of how fast a command starts use the interpreter itself.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]


def quantrig(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """`python -m harness ARGUMENTS`; see `run`."""
    return run("harness", *arguments, cwd=cwd, env=env, timeout_s=timeout_s)


def run_pytest(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """As `suite.runpytest_subprocess`."""
    done = run("pytest", f"--basetemp={tempfile.mkdtemp(dir=suite.path)}/base", *arguments, cwd=suite.path)
    return pytest.RunResult(pytest.ExitCode(done.returncode), done.stdout.splitlines(), done.stderr.splitlines(), 0.0)


def run(
    module: str,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` to its end; nothing on its stdin.

    Args:
        module: what is run.
        arguments: of its command line.
        cwd: its folder; this process's own where not given.
        env: its whole environment; this process's own where not given.
        timeout_s: it is killed after this long.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    request = {
        "module": module,
        "arguments": arguments,
        "cwd": str(cwd if cwd is not None else Path.cwd()),
        "env": dict(os.environ if env is None else env),
    }
    out: IO[bytes]
    errors: IO[bytes]
    with (
        Path(os.devnull).open("rb") as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
        socket.socket(socket.AF_UNIX) as link,
    ):
        link.settimeout(timeout_s)
        link.connect(_server())
        socket.send_fds(link, [b"!"], [nothing.fileno(), out.fileno(), errors.fileno()])
        link.sendall(json.dumps(request).encode() + b"\n")
        with link.makefile("r") as answers:
            pid = int(answers.readline())
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([module, *arguments], timeout_s) from None
        return subprocess.CompletedProcess([module, *arguments], code, _text(out), _text(errors))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _server() -> str:
    """Path of the socket; the server ends with this process, whose pipe it reads."""
    folder = tempfile.mkdtemp(prefix="quantrig-warm-")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    _kept.append(server)
    return f"{folder}/socket"


_kept: list[subprocess.Popen[bytes]] = []
