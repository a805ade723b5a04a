"""The initial RAM disk of a board: drivers, keys, the agent of this installation, and how the board starts."""

from __future__ import annotations

import gzip
import hashlib
import stat
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from agents import protocol
from harness.errors import UserError
from harness.targets.qemu.wheels import AGENT
from harness.targets.qemu_system import guest
from harness.targets.qemu_system.cpio import Entry, archive, folder, program
from harness.targets.qemu_system.image import Image
from harness.targets.qemu_system.keys import Keys
from harness.targets.qemu_system.recipe import Machine, Recipe


def make_initrd(image: Image, machine: Machine, recipe: Recipe, keys: Keys) -> Path:
    """The file, named by its content beside the image; made when it is not there."""
    entries: dict[str, Entry] = {
        "init": program(guest.init(machine.disk).encode()),
        "bin/busybox": program(_busybox(image)),
        "quantrig/start": program(guest.start(machine.clock).encode()),
        "quantrig/sshd": program(guest.SSHD.encode()),
        "quantrig/control": program(guest.control(machine.control).encode()),
        "quantrig/sshd_config": Entry(guest.SSHD_CONFIG.encode()),
        "quantrig/inittab": Entry(guest.inittab(machine.console, agent=recipe.agent).encode()),
        **{name: folder() for name in ("proc", "sys", "dev", "root")},
        # The kernel wants a console before devtmpfs is there (drivers/tty: 5, 1).
        "dev/console": Entry(mode=stat.S_IFCHR | 0o600, device=(5, 1)),
    }
    order = []
    for name, content in image.modules:
        entries[f"modules/{name}"] = Entry(content)
        order.append(name)
    entries["modules/order"] = Entry("".join(f"{name}\n" for name in order).encode())
    for name, content in keys.board_files().items():
        entries[f"quantrig/{name}"] = Entry(content, stat.S_IFREG | 0o600)
    if recipe.agent:
        entries["quantrig/agent"] = program(guest.agent(recipe.board, image.manifest.python).encode())
        for name, content in agent_files().items():
            entries[f"quantrig/site/{name}"] = Entry(content)
    packed = gzip.compress(archive(entries), compresslevel=1, mtime=0)
    path = image.folder / f"initrd-{hashlib.sha256(packed).hexdigest()[:16]}.gz"
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_bytes(packed)
        partial.replace(path)
    return path


def agent_files() -> Mapping[str, bytes]:
    """The host's own agent with its metadata, beside nothing that was built for the host.

    Raises:
        UserError: the agent is not installed here as a package.
    """
    package = Path(protocol.__file__).parents[1]
    skipped = {"build", "__pycache__"}
    files = {
        f"agents/{path.relative_to(package)}": path.read_bytes()
        for path in sorted(package.rglob("*.py"))
        if not skipped & set(path.relative_to(package).parts)
    }
    try:
        known = metadata.distribution(AGENT)
    except metadata.PackageNotFoundError:
        raise UserError(f"{AGENT} is not installed in this environment; install it as the README says") from None
    for name in ("METADATA", "entry_points.txt"):  # runtimes and boards are found by entry points
        if (text := known.read_text(name)) is not None:
            files[f"quantrig_agent-{known.version}.dist-info/{name}"] = text.encode()
    return files


def _busybox(image: Image) -> bytes:
    return (image.folder / "busybox").read_bytes()
