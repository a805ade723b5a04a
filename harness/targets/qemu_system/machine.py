"""One running emulator: its command line, the ports it was given, its end."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BoardError, TimedOut, Unreachable
from harness.targets.qemu_system import warden
from harness.targets.qemu_system.guest import AGENT_PORT, SSH_PORT
from harness.targets.qemu_system.monitor import Monitor

#: From the start of the process to its monitor's first answer; restoring a snapshot is within it.
START_TIMEOUT_S = 60.0
#: From the end of our hold on it to the end of the process.
END_TIMEOUT_S = 15.0
#: QEMU's own words, in a machine's folder.
WORDS = "qemu.log"


@dataclass(frozen=True, slots=True)
class Ports:
    """On this machine's loopback."""

    agent: int
    ssh: int
    console: int


@dataclass(frozen=True, slots=True)
class Running:
    """A machine that runs.

    Args:
        pid: of the process to end it by: the warden, or the emulator where there is none.
        folder: its disk and logs.
        sockets: folder of its monitors' sockets; paths of sockets must be short.
        ports: where it is reached.
    """

    name: str
    pid: int
    folder: Path
    sockets: Path
    ports: Ports

    @property
    def monitor(self) -> Monitor:
        """For us."""
        return Monitor(self.name, self.sockets / "monitor")

    @property
    def power_socket(self) -> Path:
        """A second monitor, for `power: {qmp: …}`: QEMU serves one client at a time on each."""
        return self.sockets / "power"

    @property
    def control_socket(self) -> Path:
        """The board's second console, for words that `guest.CONTROL` understands."""
        return self.sockets / "control"


@contextmanager
def running(name: str, command: Sequence[str], folder: Path, sockets: Path) -> Iterator[Running]:
    """The machine, for as long as the block runs; it ends with this process however that ends.

    Args:
        name: of the board.
        command: from `hardware.arguments`.
        folder: of its disk; removed at the end.
        sockets: removed at the end.

    Raises:
        Unreachable: the emulator did not start.
    """
    with (folder / WORDS).open("wb") as words:
        process = subprocess.Popen(
            [
                sys.executable, "-I", "-S", warden.__file__, "--remove", str(folder), "--remove", str(sockets),
                "--", *command,
            ],
            stdin=subprocess.PIPE, stdout=words, stderr=words, start_new_session=True,
        )  # fmt: skip
    try:
        yield Running(name, process.pid, folder, sockets, await_ports(name, process, folder, sockets))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # the kernel ends the emulator with its warden
            process.kill()
            process.wait()


def await_ports(name: str, process: subprocess.Popen[bytes], folder: Path, sockets: Path) -> Ports:
    """Wait for the monitor, and ask which ports the machine was given.

    Raises:
        Unreachable: the emulator ended; its last words are told.
        TimedOut: it did not answer.
    """
    monitor = Monitor(name, sockets / "monitor")
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (sockets / "monitor").exists() or not _answers(monitor):
        if process.poll() is not None:
            raise Unreachable(name, f"QEMU did not start: {_last_words(folder / WORDS)}")
        if time.monotonic() > deadline:
            raise TimedOut(name, f"QEMU did not start within {START_TIMEOUT_S:.0f} s; see {folder / WORDS}")
        time.sleep(0.05)
    return ports_of(monitor, name)


def ports_of(monitor: Monitor, name: str) -> Ports:
    """Which loopback ports QEMU chose.

    Raises:
        BoardError: it did not say.
    """
    forwards = {
        int(guest): int(host)
        for host, guest in re.findall(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)",
                                      monitor.human("info usernet"))
    }  # fmt: skip
    listed = monitor.ask("query-chardev")
    devices = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    filename = next((str(one["filename"]) for one in devices if one.get("label") == "console"), "")
    console = re.search(r"127\.0\.0\.1:(\d+)", filename)
    if console is None or not {AGENT_PORT, SSH_PORT} <= set(forwards):
        raise BoardError(name, "QEMU does not say which ports it listens at; take QEMU 7.2 or newer")
    return Ports(forwards[AGENT_PORT], forwards[SSH_PORT], int(console[1]))


def make_sockets_folder() -> Path:
    """A private folder with a short path: a socket's may have 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="quantrig-qemu-", dir="/tmp"))


def tell(running_machine: Running, words: str, *, answer: str | None, timeout_s: float = 5.0) -> None:
    """Say a line to the board's control console, and wait for its answer.

    Raises:
        TimedOut: no such answer.
        Unreachable: the emulator has ended.
    """
    name = running_machine.name
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s)
            link.connect(str(running_machine.control_socket))
            link.sendall(f"{words}\n".encode())
            said = b""
            while answer is not None and answer.encode() not in said:
                link.settimeout(max(0.05, deadline - time.monotonic()))
                data = link.recv(4096)
                if not data:
                    raise Unreachable(name, "its QEMU ended")
                said += data
    except TimeoutError:
        raise TimedOut(name, f"the board did not answer '{words}' within {timeout_s:.0f} s: does it hang?") from None
    except OSError as error:
        raise Unreachable(name, f"its QEMU does not answer ({error.strerror})") from error


def remove_folders(*folders: Path) -> None:
    """Whatever is left of them."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(monitor: Monitor) -> bool:
    with contextlib.suppress(Unreachable):
        return bool(monitor.state)
    return False


def _last_words(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "no reason given"
