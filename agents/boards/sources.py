"""Where a board's readings come from: files of the kernel below a root folder, and the vendor's tools."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where the vendors' tools live, below the root: Debian's and Ubuntu's places, the Pi's old one, PetaLinux's, Vitis's.
#: Fixed, so that neither a host nor a shell's PATH decides what the agent starts.
TOOL_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/bin", "opt/vc/bin", "opt/xilinx/xrt/bin")

#: What a tool says beyond this is not read: the longest answer (xdputil query of a large design) is a few kB.
_MAX_ANSWER_BYTES = 256 << 10
#: A small file of the kernel is at most one page; /proc/stat of a large machine is a few.
_MAX_FILE_BYTES = 256 << 10
_CHUNK_BYTES = 16 << 10


@dataclass(frozen=True)
class Sources:
    """A root folder and the folders of tools below it.

    Another root than "/" holds a tree that a board once had, with tools that answer as the vendor's do.

    Args:
        root: where procfs, sysfs, /etc and /dev are found.
        tools: folders that are searched for executables, in order; None: `TOOL_FOLDERS` below the root.
    """

    root: Path = Path("/")
    tools: tuple[Path, ...] | None = None

    def path(self, name: str) -> Path:
        """That file below the root; `name` without a leading slash."""
        return self.root / name

    def text(self, name: str) -> str:
        """See `read_text`."""
        return read_text(self.root / name)

    def number(self, name: str) -> float | None:
        """See `read_number`."""
        return read_number(self.root / name)

    def glob(self, pattern: str) -> Iterator[Path]:
        """The files that match, sorted; none where a folder is missing or closed to us."""
        with contextlib.suppress(OSError):
            yield from sorted(self.root.glob(pattern))

    def tool(self, name: str) -> Path | None:
        """The executable of that name; None when the board has none."""
        folders = self.tools if self.tools is not None else [self.root / folder for folder in TOOL_FOLDERS]
        for folder in folders:
            path = folder / name
            if path.is_file() and os.access(path, os.X_OK):
                return path
        return None

    def run(self, command: Sequence[str], timeout_s: float = 5.0) -> str | None:
        """What a tool prints on stdout and stderr together, whatever its exit status.

        Vendors' tools report an unknown command on stdout with status 0, and print readings beside a status of 1: only
        the text tells.

        Args:
            command: the tool's name and its arguments.
            timeout_s: it is ended after that, and what it printed is lost.

        Returns:
            None when there is no such tool, it cannot be started, or it takes too long.
        """
        tool = self.tool(command[0])
        if tool is None:
            return None
        try:
            done = subprocess.run(
                [str(tool), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=tool_environment(),
                timeout=timeout_s,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout[:_MAX_ANSWER_BYTES].decode("utf-8", "replace")


def tool_environment() -> dict[str, str]:
    """The whole environment of a vendor's tool: numbers with a point, and nothing of the agent's own."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}


def read_text(path: Path) -> str:
    """A small file of the kernel, stripped; "" when it cannot be read (sensors come and go)."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    # Not through a file object: a sample reads dozens of these, and the board is being measured.
    data = b""
    try:
        while len(data) < _MAX_FILE_BYTES and (chunk := os.read(file, _CHUNK_BYTES)):
            data += chunk
    except OSError:
        return ""
    finally:
        os.close(file)
    return data.decode("utf-8", "replace").strip("\0 \n\t")


def read_number(path: Path) -> float | None:
    """The number in a file of the kernel; None when there is none."""
    return number_in(read_text(path))


def number_in(text: str) -> float | None:
    """The finite number that `text` is; None for anything else ("nan" of a broken sensor, "N/A")."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def add_reading(found: dict[str, float], name: str, value: float | None, scale: float = 1.0) -> None:
    """Add a reading unless it is None; two sensors of one name are told apart by a number."""
    if value is None:
        return
    unique, count = name, 1
    while unique in found:
        count += 1
        unique = f"{name}_{count}"
    found[unique] = value * scale
