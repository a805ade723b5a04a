"""Limits of a network's process: how much memory it may take, and who ends it when it takes more.

A control group counts what is really used, which is best. Where the agent may not make a group, `RLIMIT_AS` serves for
CPU runtimes. CUDA reserves address space far beyond the memory it touches and cannot start under that; for boards with
such runtimes `RLIMIT_DATA` counts only what is private and writable, which a reservation is not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import time
from pathlib import Path
from typing import Protocol

from agents.config import AgentConfig

#: Values of Policy.memory_limit_kind, in the order of preference.
KINDS = ("cgroup-v2", "cgroup-v1", "rlimit", "rlimit-data", "none")
#: Families whose runtimes reserve address space beyond any memory.
_RESERVING = frozenset({"jetson", "nvidia"})
#: Of their memory, what one network's process may take: engines are built in it, and CUDA's libraries alone take a GB.
_ACCELERATOR_SHARE = 0.75

_PREFIX = "quantrig-"
#: The kernel frees a dead process's group a moment after its parent has reaped it.
_REMOVAL_S = 2.0


class Limit(Protocol):
    """The memory limit of one child process."""

    def apply(self, pid: int) -> None:
        """Put the process under the limit; called before it is told anything."""

    def exceeded(self) -> bool:
        """Whether the kernel ended a process for reaching this limit."""

    def remove(self) -> None:
        """Give back what the limit took; the process has ended."""


class Limiter(Protocol):
    """Makes limits of one kind."""

    kind: str

    def limit(self, size_bytes: int) -> Limit:
        """A new limit of `size_bytes`."""


class NoLimit:
    """No limit at all: neither groups nor rlimits can be used."""

    kind = "none"

    def limit(self, size_bytes: int) -> Limit:  # noqa: ARG002 - the signature of a Limiter
        """Itself: there is nothing to keep."""
        return self

    def apply(self, pid: int) -> None:
        """Do nothing."""

    def exceeded(self) -> bool:
        """Never."""
        return False

    def remove(self) -> None:
        """Do nothing."""


class ResourceLimiter:
    """setrlimit(2): an allocation beyond it fails inside the process, which then reports it (or dies).

    Args:
        kind: "rlimit" bounds the address space; "rlimit-data" private writable memory (Linux 4.7 and newer).
    """

    def __init__(self, kind: str = "rlimit") -> None:
        self.kind = kind

    def limit(self, size_bytes: int) -> Limit:
        """A limit of `size_bytes`."""
        return _ResourceLimit(resource.RLIMIT_DATA if self.kind == "rlimit-data" else resource.RLIMIT_AS, size_bytes)


class _ResourceLimit(NoLimit):
    def __init__(self, which: int, size_bytes: int) -> None:
        self._which = which
        self._size_bytes = size_bytes

    def apply(self, pid: int) -> None:
        resource.prlimit(pid, self._which, (self._size_bytes, self._size_bytes))


class GroupLimiter:
    """Control groups below the agent's own.

    Args:
        kind: "cgroup-v2" or "cgroup-v1".
        base: directory of the group that new ones are made in.
    """

    def __init__(self, kind: str, base: Path) -> None:
        self.kind = kind
        self._base = base
        self._numbers = itertools.count(1)  # atomic: several threads start children
        self._owner = f"{_PREFIX}{os.getpid()}-{_start_ticks(os.getpid())}-"
        remove_leftovers(base)

    def limit(self, size_bytes: int) -> Limit:
        """A new group with its limit set.

        Raises:
            OSError: the group cannot be made.
        """
        path = self._base / f"{self._owner}{next(self._numbers)}"
        path.mkdir()
        group = _Group(path)
        try:
            if self.kind == "cgroup-v2":
                group.write("memory.max", str(size_bytes))
                # Without these the limit only pushes the process into swap, or kills one thread of many.
                group.write_if_there("memory.swap.max", "0")
                group.write_if_there("memory.oom.group", "1")
            else:
                group.write("memory.limit_in_bytes", str(size_bytes))
                group.write_if_there("memory.memsw.limit_in_bytes", str(size_bytes))
        except OSError:
            path.rmdir()
            raise
        return group


class _Group:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, value: str) -> None:
        (self._path / name).write_text(value)

    def write_if_there(self, name: str, value: str) -> None:
        with contextlib.suppress(OSError):  # absent where the kernel does not account swap
            self.write(name, value)

    def apply(self, pid: int) -> None:
        self.write("cgroup.procs", str(pid))

    def exceeded(self) -> bool:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in (self._path / name).read_text().splitlines():
                    word, _, count = line.partition(" ")
                    if word == "oom_kill":
                        return int(count) > 0
        return False

    def remove(self) -> None:
        _remove_group(self._path)


def usual_memory_bytes(family: str) -> int:
    """What a network's process may take when the operator does not say.

    Args:
        family: of the board.
    """
    usual = AgentConfig().child_memory_bytes
    if family not in _RESERVING:
        return usual
    return max(usual, int(_ACCELERATOR_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def choose_limiter(wanted: str = "auto", family: str = "") -> Limiter:
    """The best limiter this machine offers, or the one asked for.

    Args:
        wanted: "auto" or one of `KINDS`.
        family: of the board; its runtimes decide what serves where there are no groups.

    Raises:
        ValueError: the wanted kind cannot be used here; one line.
    """
    if wanted == "none":
        return NoLimit()
    if wanted in ("rlimit", "rlimit-data"):
        return ResourceLimiter(wanted)
    for kind, find in (("cgroup-v2", _base_v2), ("cgroup-v1", _base_v1)):
        if wanted not in ("auto", kind):
            continue
        limiter = _working(kind, find())
        if limiter is not None:
            return limiter
    if wanted != "auto":
        raise ValueError(f"--memory-limit {wanted} cannot be used here: no writable memory controller; use rlimit")
    return ResourceLimiter("rlimit-data" if family in _RESERVING else "rlimit")


def remove_leftovers(base: Path) -> None:
    """Remove the groups of agents that no longer run (they were killed before they could)."""
    with contextlib.suppress(OSError):
        for path in base.glob(f"{_PREFIX}*-*-*"):
            _, pid, ticks, _ = path.name.split("-", 3)
            if pid.isdigit() and _start_ticks(int(pid)) != ticks:
                _remove_group(path)


def _working(kind: str, base: Path | None) -> GroupLimiter | None:
    """A limiter that was seen to make and remove a group; mount options and namespaces promise nothing."""
    if base is None:
        return None
    try:
        limiter = GroupLimiter(kind, base)
        limiter.limit(1 << 30).remove()
    except OSError:
        return None
    return limiter


def _base_v1() -> Path | None:
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _mounted("cgroup", "memory", path)
    return None


def _base_v2() -> Path | None:
    for line in _lines("/proc/self/cgroup"):
        if not line.startswith("0::"):
            continue
        base = _mounted("cgroup2", "", line[3:])
        if base is None or "memory" not in " ".join(_lines(base / "cgroup.controllers")).split():
            return None
        return base if _delegate(base) else None
    return None


def _delegate(base: Path) -> bool:
    """Let groups below `base` have the memory controller; the agent itself must then live in one of them."""
    if "memory" in " ".join(_lines(base / "cgroup.subtree_control")).split():
        return True
    try:
        processes = {int(line) for line in _lines(base / "cgroup.procs")}
        if processes - {os.getpid()}:
            return False  # shared with others (a login session): not ours to rearrange
        if processes:
            own = base / f"{_PREFIX}{os.getpid()}-{_start_ticks(os.getpid())}-0"
            own.mkdir(exist_ok=True)
            (own / "cgroup.procs").write_text(str(os.getpid()))
        (base / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True


def _mounted(kind: str, option: str, path: str) -> Path | None:
    """Where group `path` of a hierarchy lies in the file system: mountinfo, fields of proc_pid_mountinfo(5)."""
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if tail[0] != kind or (option and option not in tail[-1].split(",")):
            continue
        root, mount = fields[3], fields[4]
        relative = os.path.relpath(path, root)
        return Path(mount) if relative == "." else Path(mount) / relative
    return None


def _remove_group(path: Path) -> None:
    deadline = time.monotonic() + _REMOVAL_S
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            for line in _lines(path / "cgroup.procs"):
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(line), signal.SIGKILL)
            time.sleep(0.01)
        else:
            return


def _start_ticks(pid: int) -> str:
    """When the process started, in clock ticks since boot: tells a recycled pid from the one meant; "" when gone."""
    # Of its main thread: QEMU's user mode makes up /proc/PID/stat of the process that asks, and an agent there would be
    # taken for one that has ended by every other agent of the machine, its networks' processes killed.
    text = " ".join(_lines(f"/proc/{pid}/task/{pid}/stat"))
    # The command name, in brackets, may hold blanks: field 22 is the 20th after the last bracket.
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
