"""The emulator's command line: what every board has, and what each machine is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.targets.qemu.processors import processor_of
from harness.targets.qemu_system.guest import AGENT_PORT, SSH_PORT
from harness.targets.qemu_system.recipe import Machine, Recipe
from harness.targets.qemu_system.tools import Tools

#: Names of files in a machine's folder.
DISK, CONSOLE_LOG = "disk.qcow2", "console.log"
#: QEMU's name of the board's network, for `set_link`.
NETWORK = "net"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a board starts.

    Args:
        kernel: an arm64 Image.
        initrd: initial RAM disk.
        device_tree: None: the machine makes its own.
    """

    kernel: Path
    initrd: Path
    device_tree: Path | None = None


def arguments(
    tools: Tools,
    machine: Machine,
    recipe: Recipe,
    boot: Boot,
    *,
    name: str,
    folder: Path,
    sockets: Path,
    snapshot: str | None,
) -> list[str]:
    """The emulator's command line. A snapshot fits the very same line only.

    Args:
        tools: of this host.
        machine: of QEMU.
        recipe: already checked.
        boot: what it starts.
        name: of the board.
        folder: of its disk and its console's log.
        sockets: folder of its monitors' and its control console's sockets.
        snapshot: to start from; None: it boots.
    """

    def unix(word: str) -> str:
        return f"socket,id={word},path={_quoted(sockets / word)},server=on,wait=off"

    log = f"logfile={_quoted(folder / CONSOLE_LOG)}"
    forwards = ",".join(f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in (AGENT_PORT, SSH_PORT))
    return [
        tools.emulator, "-nodefaults", "-no-user-config", "-name", name,
        "-machine", machine.name, "-smp", str(recipe.processors), "-m", str(recipe.memory_mb),
        "-accel", "tcg,thread=multi", "-display", "none",
        "-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", f"console={machine.console} panic=0",
        *(["-dtb", str(boot.device_tree)] if boot.device_tree is not None else []),
        # The board reaches nothing but this machine's answers; this machine reaches it on loopback only.
        "-netdev", f"user,id={NETWORK},restrict=on,{forwards}",
        "-chardev", f"socket,id=console,host=127.0.0.1,port=0,server=on,wait=off,{log}",
        "-chardev", unix("control"),
        *_DEVICES[machine.name](name, recipe, folder / DISK),
        "-chardev", unix("monitor"), "-mon", "chardev=monitor,mode=control",
        "-chardev", unix("power"), "-mon", "chardev=power,mode=control",
        *(["-loadvm", snapshot] if snapshot is not None else []),
    ]  # fmt: skip


def _virt(name: str, recipe: Recipe, disk: Path) -> list[str]:
    return [
        "-cpu", processor_of(name, recipe.board).name,
        "-drive", f"file={_quoted(disk)},if=none,id=disk,format=qcow2", "-device", "virtio-blk-pci,drive=disk",
        "-device", f"virtio-net-pci,netdev={NETWORK},romfile=,id=nic",
        "-device", "virtio-rng-pci",
        "-serial", "chardev:console",
        "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=control",
    ]  # fmt: skip


def _zcu102(_name: str, _recipe: Recipe, disk: Path) -> list[str]:
    """Its devices are on the board: only what is plugged in is named."""
    return [
        "-drive", f"file={_quoted(disk)},if=sd,index=0,format=qcow2",
        "-net", f"nic,netdev={NETWORK}",
        "-serial", "chardev:console", "-serial", "chardev:control",
    ]  # fmt: skip


_DEVICES: dict[str, Callable[[str, Recipe, Path], list[str]]] = {"virt": _virt, "xlnx-zcu102": _zcu102}


def _quoted(path: Path) -> str:
    """As QEMU's comma-separated options want a path."""
    return str(path).replace(",", ",,")
