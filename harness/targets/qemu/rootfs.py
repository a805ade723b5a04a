"""What one processor's agent sees as its root, and the command that starts Python there.

The folder given to QEMU as `-L` shadows the host's files: it links to the shared tree and holds what tells the board
from the host. The agent starts its children as `sys.executable`, which the host's kernel has to be able to start
without binfmt_misc; so that is a script which calls the emulator.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from agents import protocol
from harness.errors import UserError
from harness.targets.qemu.binary import Qemu
from harness.targets.qemu.processors import Processor
from harness.targets.qemu.tree import Tree
from harness.targets.qemu.wheels import AGENT

#: `$0` becomes argv[0] of the guest, whence Python takes `sys.executable`; PYTHONHOME must be a path of the host.
_SCRIPT = """\
#!/bin/sh
exec {qemu} -cpu {cpu} -L {root} -0 "$0" -E PYTHONHOME={home} {python} "$@"
"""
_MODEL = "proc/device-tree/model"


def make_root(tree: Tree, qemu: Qemu, processor: Processor, board: str) -> Path:
    """The `-L` folder of a board, made or brought up to date.

    Returns:
        The script in it that is the board's Python.
    """
    root = tree.path / "boards" / f"{board}-{qemu.version}"
    for name in ("bin", "proc/device-tree"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("usr", "lib", "etc"):
        if (tree.path / name).is_dir() and not (root / name).is_symlink():
            _link(root / name, tree.path / name)
    _write(root / "proc/cpuinfo", processor.cpuinfo(os.cpu_count() or 1, qemu.title))
    _write(root / _MODEL, f"{board}, emulated by {qemu.title}\0")
    script = root / "bin" / "python"
    words = {
        "qemu": qemu.path,
        "cpu": processor.name,
        "root": root,
        "home": tree.path / "usr",
        "python": tree.python,
    }
    _write(script, _SCRIPT.format(**{key: shlex.quote(str(value)) for key, value in words.items()}), 0o755)
    return script


def place_agent(tree: Tree) -> Path:
    """The host's own agent as a folder for PYTHONPATH, beside nothing that was built for the host.

    It is named by its content: a changed agent needs no new tree.

    Raises:
        UserError: the agent is not installed here as a package.
    """
    package = Path(protocol.__file__).parents[1]
    files = {f"agents/{path.relative_to(package)}": path.read_bytes() for path in _modules(package)}
    try:
        known = metadata.distribution(AGENT)
    except metadata.PackageNotFoundError:
        raise UserError(f"{AGENT} is not installed in this environment; install it as the README says") from None
    for name in ("METADATA", "entry_points.txt"):  # runtimes and boards are found by entry points
        text = known.read_text(name)
        if text is not None:
            files[f"quantrig_agent-{known.version}.dist-info/{name}"] = text.encode()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    place = tree.path / "agents" / digest.hexdigest()[:16]
    if not place.is_dir():
        place.parent.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=place.parent))
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        try:
            partial.rename(place)
        except OSError:  # somebody else was faster
            if not place.is_dir():
                raise
            shutil.rmtree(partial)
    return place


def _modules(package: Path) -> list[Path]:
    """The package's files, without what building it left in a checkout."""
    skipped = {"build", "__pycache__"}
    inside = (path for path in package.rglob("*.py") if not skipped & set(path.relative_to(package).parts))
    return sorted(inside)


def _link(path: Path, to: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=path.parent)) / path.name
    partial.symlink_to(to)
    partial.replace(path)
    partial.parent.rmdir()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file that others may be reading, unless it is so already."""
    if path.is_file() and path.read_text() == text:
        return
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).chmod(mode)
    Path(file.name).replace(path)
