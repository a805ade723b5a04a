"""One sender of files in a process of its own, so that its CPU time is its own: to an agent, or by SFTP.

    python -m benchmarks.upload_client '{"kind": "agent", …}' < commands

A line of stdin names a file; the answer is one line of JSON: seconds and CPU seconds from the first look at the file
to the moment its arrival is certain. The next line, `forget`, removes the file on the other side.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Sends one file, and returns how to remove it again.
Sender = Callable[[Path], Callable[[], object]]


def sha256(path: Path) -> str:
    """Of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def to_agent(address: str, tls: str) -> Iterator[Sender]:
    """Our client: the file is hashed here, sent, and hashed again on the other side before it is accepted."""
    from benchmarks.agent import client

    with client(address, Path(tls)) as agent:

        def send(path: Path) -> Callable[[], object]:
            digest = sha256(path)
            if agent.ship(path, digest).skipped:
                raise RuntimeError("the agent had the file already")
            return lambda: agent.remove(digest)

        yield send


@contextmanager
def by_sftp(port: int, user: str, key: str, folder: str, *, hashed: bool) -> Iterator[Sender]:
    """Paramiko with its defaults; `hashed` adds what ours does: sha256 here and, by `sha256sum`, over there."""
    import paramiko

    ssh = paramiko.SSHClient()
    ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # our own server, just started on loopback
    ssh.connect("127.0.0.1", port, user, key_filename=key, look_for_keys=False, allow_agent=False)
    with ssh, ssh.open_sftp() as sftp:

        def send(path: Path) -> Callable[[], object]:
            remote = f"{folder}/{path.name}"
            expected = sha256(path) if hashed else None
            sftp.put(str(path), remote)
            if expected is not None:
                _, answer, _ = ssh.exec_command(f"sha256sum '{remote}'")
                if answer.read().decode().split()[0] != expected:
                    raise RuntimeError("the file arrived damaged")
            return lambda: sftp.remove(remote)

        yield send


def main() -> None:
    settings = json.loads(sys.argv[1])
    kind = settings.pop("kind")
    with to_agent(**settings) if kind == "agent" else by_sftp(**settings) as send:
        print("ready", flush=True)
        for line in sys.stdin:
            path = Path(line.rstrip("\n"))
            cpu, started = _cpu_s(), time.perf_counter()
            forget = send(path)
            seconds, cpu_s = time.perf_counter() - started, _cpu_s() - cpu
            print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}), flush=True)
            if sys.stdin.readline().strip() != "forget":
                break
            forget()
            print("forgotten", flush=True)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
