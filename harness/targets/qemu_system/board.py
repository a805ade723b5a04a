"""An emulated board for tests and runs: started, reached, switched, broken on purpose, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.targets.power.control import PowerControl, open_power
from harness.targets.qemu_system.golden import (
    Prepared,
    await_agent,
    await_boot,
    new_disk,
    prepare,
    set_clock,
)
from harness.targets.qemu_system.hardware import CONSOLE_LOG, DISK, NETWORK
from harness.targets.qemu_system.image import home
from harness.targets.qemu_system.machine import (
    Running,
    make_sockets_folder,
    remove_folders,
    running,
    tell,
)
from harness.targets.qemu_system.reach import ssh_of, target_of
from harness.targets.qemu_system.recipe import Recipe
from harness.targets.target import Ssh, Target

Progress = Callable[[str, float, float | None], None]


class Fault:
    """Ways to break a board, and to mend it where it does not mend itself.

    Args:
        machine: that runs.
    """

    def __init__(self, machine: Running) -> None:
        self._machine = machine

    def hang(self) -> None:
        """Its processors stop: connections stay open and nothing answers."""
        self._machine.monitor.ask("stop")

    def resume(self) -> None:
        """After `hang`: it goes on where it was, unaware."""
        self._machine.monitor.ask("cont")

    def link(self, *, up: bool) -> None:
        """Pull its network cable, or plug it in."""
        self._machine.monitor.ask("set_link", {"name": NETWORK, "up": up})

    def reset(self) -> None:
        """As by its reset button: nothing is written first."""
        self._machine.monitor.ask("system_reset")

    def panic(self) -> None:
        """Its kernel panics and stays so; only a reset or a power cycle helps."""
        tell(self._machine, "panic", answer=None)

    def kill_agent(self) -> None:
        """SIGKILL to its agent; the board's init starts a new one."""
        tell(self._machine, "kill-agent", answer="killed")


class QemuBoard:
    """An emulated board, for as long as a `with` block runs.

    For instance `with QemuBoard(name="pi-1") as board, connect(board.target, work_dir=folder) as agent: …`.

    Its processes end with this one, however it ends; nothing is left in the cache but the image and the snapshot.

    Args:
        recipe: what it is to be.
        name: `[a-z0-9-]{1,64}`, also its host name.
        cold: boot it; else it starts from the golden snapshot, which is made when it is not there.
        serving: wait until it is up: with an agent until that serves, else until its login prompt.
        make: make its image where there is none; that needs the network.
        progress: phase, done, total.
    """

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        name: str = "qemu-board",
        cold: bool = False,
        serving: bool = True,
        make: bool = True,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._recipe = recipe if recipe is not None else Recipe()
        self._name = name
        self._cold = cold
        self._serving = serving
        self._make = make
        self._progress = progress
        self._stack = ExitStack()
        self._machine: Running | None = None
        self._prepared: Prepared | None = None

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            UserError: a program lacks, or there is no image and no way to make one.
            BoardError: it did not come up.
        """
        self._prepared = prepared = prepare(
            self._name, self._recipe, snapshot=not self._cold, make=self._make, progress=self._progress
        )
        with ExitStack() as stack:
            folder, sockets = board_folder(self._name), make_sockets_folder()
            stack.callback(remove_folders, folder, sockets)
            lay_out(prepared, folder, cold=self._cold)
            command = prepared.command(self._name, folder, sockets, snapshot=not self._cold)
            self._machine = stack.enter_context(running(self._name, command, folder, sockets))
            if self._cold and self._serving:
                await_boot(self._machine)
                if self._recipe.agent:
                    await_agent(self._machine)
            elif not self._cold:
                set_clock(self._machine)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._machine = None

    @property
    def machine(self) -> Running:
        """The running emulator.

        Raises:
            RuntimeError: outside the `with` block.
        """
        if self._machine is None:
            raise RuntimeError("the board is not started: use it in a with statement")
        return self._machine

    @property
    def agent_address(self) -> str:
        """HOST:PORT; `tls` belongs to it."""
        return f"127.0.0.1:{self.machine.ports.agent}"

    @property
    def tls(self) -> Path:
        """Folder of this host's certificate for its agent."""
        return self._ready.keys.host_tls

    @property
    def ssh(self) -> Ssh:
        """Root's login by key, with the pinned key of its SSH server."""
        return ssh_of(self._ready.keys, self.machine)

    @property
    def console_url(self) -> str:
        """Of its serial console, for one reader at a time."""
        return f"socket://127.0.0.1:{self.machine.ports.console}"

    @property
    def console_log(self) -> Path:
        """Everything its console said since the start."""
        return self.machine.folder / CONSOLE_LOG

    @property
    def target(self) -> Target:
        """As an entry of targets.yaml: agent, SSH, console and power."""
        return target_of(self._ready.recipe, self._ready.keys, self.machine)

    @property
    def power(self) -> PowerControl:
        """On, off, cycle, status. Without power it is as right after a reset: what was not on its disk is lost."""
        return open_power(self.target, log=self.machine.folder / "power.log")

    @property
    def fault(self) -> Fault:
        """Ways to break it."""
        return Fault(self.machine)

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise RuntimeError("the board is not started: use it in a with statement")
        return self._prepared


def board_folder(name: str) -> Path:
    """A new folder for a board's disk, on the file system of the snapshots."""
    boards = home() / "boards"
    boards.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=boards))


def lay_out(prepared: Prepared, folder: Path, *, cold: bool) -> None:
    """Its disk: an empty layer, or a copy of the snapshot."""
    if cold or prepared.golden is None:
        new_disk(prepared, folder / DISK)
        return
    copy_sparse(prepared.golden, folder / DISK)


def copy_sparse(source: Path, to: Path) -> None:
    """Copy a file within the kernel; blocks are shared where the file system can."""
    with source.open("rb") as old, to.open("wb") as new:
        with contextlib.suppress(OSError):
            import fcntl

            fcntl.ioctl(new.fileno(), 0x40049409, old.fileno())  # FICLONE of linux/fs.h
            return
        left = os.fstat(old.fileno()).st_size
        try:
            while left:
                left -= os.copy_file_range(old.fileno(), new.fileno(), left) or left
        except OSError:
            old.seek(0)
            new.seek(0)
            shutil.copyfileobj(old, new)
