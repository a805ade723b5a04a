"""A network's way to the board: mutual TLS and sha256 on both ends, against `sftp.put`; and the second time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.agent import RunningAgent, client, running_agent
from benchmarks.counting_proxy import counting_proxy
from benchmarks.figures import Effort, Goal, Result, Row
from benchmarks.sftp_server import find_sshd, sftp_server

RATE_GOAL = Goal("ratio", least=2.0)
CPU_GOAL = Goal("ratio", most=0.5)
PLAIN = "paramiko sftp.put to OpenSSH, no digest"
HASHED = "the same, with sha256 on both ends"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One upload: wall seconds, and CPU seconds of client and server together."""

    seconds: float
    cpu_s: float


def run(effort: Effort) -> Result:
    """Interleaved transfers of one fresh file each; then the second upload of a known file."""
    sshd = find_sshd()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        agent = stack.enter_context(running_agent(folder))
        senders = {"ours": stack.enter_context(sender(_agent_settings(agent), agent.pid))}
        if sshd is not None:
            (folder / "received").mkdir()
            server = stack.enter_context(sftp_server(folder, sshd))
            for label, hashed in ((PLAIN, False), (HASHED, True)):
                settings = {
                    "kind": "sftp",
                    "port": server.port,
                    "user": server.user,
                    "key": str(server.key),
                    "folder": str(folder / "received"),
                    "hashed": hashed,
                }
                senders[label] = stack.enter_context(sender(settings, server.pid))
        taken = interleaved(senders, folder, effort)
        rows = [*_rate_rows(taken, effort.upload_bytes), *_second_upload(agent, folder, effort)]
    skipped = () if sshd else ("paramiko sftp.put: no OpenSSH server here (apt-get install openssh-server)",)
    return Result(tuple(rows), skipped)


def _agent_settings(agent: RunningAgent) -> dict[str, object]:
    return {"kind": "agent", "address": agent.address, "tls": str(agent.host_tls)}


@contextmanager
def sender(settings: dict[str, object], server_pid: int) -> Iterator[Callable[[Path], Transfer]]:
    """A connected client process; the function sends one file through it."""
    command = [sys.executable, "-m", "benchmarks.upload_client", json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout
        if answers.readline().strip() != "ready":
            raise RuntimeError(f"the {settings['kind']} client did not start")

        def send(path: Path) -> Transfer:
            before = tree_cpu_s(server_pid)
            asked.write(f"{path}\n")
            asked.flush()
            line = answers.readline()
            if not line:
                raise RuntimeError(f"the {settings['kind']} client died")
            client_side = json.loads(line)
            server_cpu_s = tree_cpu_s(server_pid) - before
            asked.write("forget\n")
            asked.flush()
            answers.readline()
            return Transfer(client_side["seconds"], client_side["cpu_s"] + server_cpu_s)

        try:
            yield send
        finally:
            asked.close()


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process, its descendants, and those of them that have ended."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def interleaved(
    senders: dict[str, Callable[[Path], Transfer]], folder: Path, effort: Effort
) -> dict[str, list[Transfer]]:
    """Every sender sends a file nobody has seen; the order turns around each time, the first round is not counted."""
    taken: dict[str, list[Transfer]] = {label: [] for label in senders}
    content = bytearray(os.urandom(effort.upload_bytes))
    for number in range(effort.repetitions + 1):
        labels = list(senders) if number % 2 == 0 else list(reversed(senders))
        for label in labels:
            content[:16] = os.urandom(16)
            path = folder / "upload.bin"
            path.write_bytes(content)
            transfer = senders[label](path)
            if number > 0:
                taken[label].append(transfer)
    return taken


def _rate_rows(taken: dict[str, list[Transfer]], size_bytes: int) -> Iterator[Row]:
    size_mb = size_bytes / 1e6
    ours = taken["ours"]
    peers = [label for label in taken if label != "ours"] or [""]
    for peer in peers:
        theirs = taken.get(peer, [])
        yield Row(
            figure=f"upload of {size_mb:.0f} MB over loopback, mutual TLS, sha256 on both ends: rate",
            unit="MB/s",
            ours=tuple(size_mb / each.seconds for each in ours),
            peer_name=peer,
            peer=tuple(size_mb / each.seconds for each in theirs),
            goal=RATE_GOAL if peer == PLAIN else None,
        )
        yield Row(
            figure=f"upload of {size_mb:.0f} MB: CPU seconds of client and server",
            unit="s",
            ours=tuple(each.cpu_s for each in ours),
            peer_name=peer,
            peer=tuple(each.cpu_s for each in theirs),
            goal=CPU_GOAL if peer == PLAIN else None,
        )


def _second_upload(agent: RunningAgent, folder: Path, effort: Effort) -> Iterator[Row]:
    path = folder / "upload.bin"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with client(agent.address, agent.host_tls) as connection:
        connection.ship(path, digest)
        seconds = []
        for _ in range(10 * effort.repetitions):
            started = time.perf_counter()
            again = connection.ship(path, digest)
            seconds.append(time.perf_counter() - started)
            assert again.skipped
    yield Row(
        figure="second upload of the same file, channel open and digest known: time",
        unit="ms",
        ours=tuple(1e3 * each for each in seconds),
        goal=Goal("ours", most=10.0),
    )
    with counting_proxy(agent.address) as proxy, client(proxy.address, agent.host_tls) as connection:
        counted = []
        for _ in range(effort.repetitions):
            before = proxy.settled_bytes()
            assert connection.ship(path, digest).skipped
            counted.append(float(proxy.settled_bytes() - before))
    yield Row(
        figure="second upload of the same file: bytes on the wire, both directions",
        unit="bytes",
        ours=(max(counted),),
        goal=Goal("ours", most=1000.0),
        note=f"the largest of {len(counted)}; TLS records, without TCP and IP headers",
    )
