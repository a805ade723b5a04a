"""The golden snapshot: a board that serves, frozen, so that any number of copies start in a second."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BoardError, TimedOut, UserError
from harness.targets.console.events import EventKind
from harness.targets.console.patterns import recognize_all
from harness.targets.qemu_system.hardware import CONSOLE_LOG, DISK, Boot, arguments
from harness.targets.qemu_system.image import Image, alone, current_image, home, make_image
from harness.targets.qemu_system.initrd import make_initrd
from harness.targets.qemu_system.keys import Keys, make_keys
from harness.targets.qemu_system.machine import (
    Running,
    make_sockets_folder,
    remove_folders,
    running,
    tell,
)
from harness.targets.qemu_system.reach import BOOT_TIMEOUT_S, target_of
from harness.targets.qemu_system.recipe import Machine, Recipe
from harness.targets.qemu_system.tools import Tools, find_tools
from harness.targets.qemu_system.zcu102 import device_tree

Progress = Callable[[str, float, float | None], None]

SNAPSHOT = "golden"
#: Written: the pages that the guest has touched, about 300 MB.
_SAVE_TIMEOUT_S = 120.0
#: Snapshots kept of one image; older ones are of agents that have changed since.
_KEPT = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a board is started from.

    Args:
        golden: a qcow2 over the image's root disk that holds the snapshot; None: a board of it boots cold.
    """

    tools: Tools
    machine: Machine
    recipe: Recipe
    image: Image
    keys: Keys
    boot: Boot
    golden: Path | None

    def command(self, name: str, folder: Path, sockets: Path, *, snapshot: bool) -> list[str]:
        """Of the emulator."""
        return arguments(
            self.tools, self.machine, self.recipe, self.boot, name=name,
            folder=folder, sockets=sockets, snapshot=SNAPSHOT if snapshot else None,
        )  # fmt: skip


def prepare(
    target: str,
    recipe: Recipe,
    *,
    snapshot: bool = True,
    make: bool = True,
    progress: Progress = lambda *_: None,
) -> Prepared:
    """Image, keys, RAM disk and snapshot for a recipe, from the cache or made now.

    Args:
        target: name in targets.yaml, for messages.
        recipe: what the board is to be.
        snapshot: whether boards are to start from a snapshot.
        make: make an image where there is none; that needs the network.
        progress: phase, done, total.

    Raises:
        UserError: a program lacks, no image and `make` is off, no network.
        BoardError: the board did not boot.
    """
    machine = recipe.check(target)
    tools = find_tools(target)
    image = current_image(machine)
    if image is None:
        if not make:
            raise UserError(
                f"{target}: the emulated boards' image is not on this machine yet; "
                f"`quantrig targets provision {target}` makes it (under a minute, once)"
            )
        image, _ = make_image(target, machine, tools, progress=progress)
    with alone(target):
        keys = make_keys(home() / "keys")
        boot = Boot(image.kernel, make_initrd(image, machine, recipe, keys), _device_tree(image, machine, recipe))
        bare = Prepared(tools, machine, recipe, image, keys, boot, None)
        golden = _golden(target, bare, progress) if snapshot else None
    return Prepared(tools, machine, recipe, image, keys, boot, golden)


def new_disk(prepared: Prepared, path: Path) -> None:
    """An empty layer over the image's root disk, of a power of two: an SD card has no other size in QEMU.

    Raises:
        BoardError: the disk is full.
    """
    base = str(prepared.image.root)
    size = 1 << (prepared.image.root.stat().st_size - 1).bit_length()
    options = ["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(path), str(size)]
    done = subprocess.run([prepared.tools.disk, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BoardError(path.stem, f"qemu-img could not make its disk: {done.stderr.strip()}")


def asks_for_a_login(line: str) -> bool:
    """Whether a line of the console is a login prompt, also where the kernel went on writing behind it."""
    return any(event.kind is EventKind.LOGIN for event in recognize_all(line.rstrip(), 0.0))


def await_boot(machine: Running, timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Wait for the login prompt in the console's log, and for the control console.

    Raises:
        TimedOut: neither a prompt nor an answer; the console's last line is told.
    """
    deadline = time.monotonic() + timeout_s
    log = machine.folder / CONSOLE_LOG
    while True:
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        if any(asks_for_a_login(line) for line in lines[-20:]):
            break
        if time.monotonic() > deadline:
            last = lines[-1].strip() if lines else "nothing"
            raise TimedOut(machine.name, f"no login prompt within {timeout_s:.0f} s; its console's last line: {last}")
        time.sleep(0.1)
    set_clock(machine, timeout_s=max(5.0, deadline - time.monotonic()))


def set_clock(machine: Running, *, timeout_s: float = 30.0) -> None:
    """Tell the board the time and its name: those of a snapshot are of its past.

    Raises:
        TimedOut: the board does not answer.
    """
    now = f"{time.time():.0f}"
    tell(machine, f"set {now} {machine.name}", answer=f"set {now}", timeout_s=timeout_s)


def await_agent(machine: Running, timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Wait until its agent serves; the board has to be up.

    Raises:
        TimedOut: it did not come.
    """
    tell(machine, "await-agent", answer="serving", timeout_s=timeout_s)


def _device_tree(image: Image, machine: Machine, recipe: Recipe) -> Path | None:
    """The file beside the image, where the machine does not make its own; made when it is not there."""
    if machine.name != "xlnx-zcu102":
        return None
    path = image.folder / f"zcu102-{recipe.processors}.dtb"
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_bytes(device_tree(recipe.processors, seed=os.urandom(64)))
        partial.replace(path)
    return path


def _golden(target: str, bare: Prepared, progress: Progress) -> Path:
    folder = bare.image.folder
    name = json.dumps([bare.recipe.identity, bare.boot.initrd.name, bare.tools.version, bare.tools.emulator, 2])
    path = folder / f"golden-{hashlib.sha256(name.encode()).hexdigest()[:16]}.qcow2"
    if path.is_file():
        path.touch()  # the newest are kept
        return path
    work, sockets = path.with_suffix(".partial"), make_sockets_folder()
    remove_folders(work)
    work.mkdir()
    try:
        new_disk(bare, work / DISK)
        progress("boot", 0, None)
        # The warden removes the folder: what is kept is moved out before.
        with running(target, bare.command(target, work, sockets, snapshot=False), work, sockets) as machine:
            await_boot(machine)
            if bare.recipe.agent:
                await_agent(machine)
                _warm(bare, machine)
            tell(machine, "sync", answer="synced", timeout_s=30.0)
            progress("snapshot", 0, None)
            monitor = machine.monitor
            monitor.ask("stop")
            said = monitor.human(f"savevm {SNAPSHOT}", timeout_s=_SAVE_TIMEOUT_S)
            if said:
                raise BoardError(target, f"QEMU could not save the snapshot: {said}")
            (work / DISK).rename(path.with_suffix(".closing"))  # the emulator has yet to close it
        path.with_suffix(".closing").rename(path)
    finally:
        remove_folders(work, sockets)
    kept = sorted(folder.glob("golden-*.qcow2"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def _warm(bare: Prepared, machine: Running) -> None:
    """Let the agent look for its runtimes once, which it remembers: copies answer at once."""
    from harness.targets.connect import connect

    with connect(target_of(bare.recipe, bare.keys, machine), work_dir=machine.folder):
        pass
