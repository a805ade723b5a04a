"""Kernel modules of an unpacked package: which files a driver needs, in the order to load them.

The package has no modules.dep (depmod makes it on installing); each module names what it needs in its own section.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError


def needed_modules(target: str, folder: Path, wanted: Sequence[str]) -> list[Path]:
    """Files to load for `wanted`, each after what it needs; what is built into the kernel needs no file.

    Args:
        target: name in targets.yaml, for the message.
        folder: lib/modules/VERSION of the package.
        wanted: names of modules.

    Raises:
        UserError: the kernel has no such driver.
    """
    built_in = {_name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}
    files = {_name(path): path for path in folder.rglob("*.ko*")}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in built_in or name in order:
            return
        path = files.get(name)
        if path is None:
            raise UserError(f"{target}: the kernel in {folder.name} has no driver {name}; take Debian's own sources")
        for other in _dependencies(path):
            add(other)
        order[name] = path

    for name in wanted:
        add(name)
    return list(order.values())


def read_module(path: Path) -> bytes:
    """Its content, unpacked: Debian 13 compresses modules."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        return lzma.decompress(data)
    return data


def _dependencies(path: Path) -> list[str]:
    """From `depends=a,b` among the null-terminated strings of its .modinfo section."""
    match = re.search(rb"\0depends=([a-zA-Z0-9_,-]*)\0", read_module(path))
    return [] if match is None else [_plain(name) for name in match[1].decode().split(",") if name]


def _name(path: Path) -> str:
    return _plain(re.sub(r"\.ko(\.\w+)?$", "", path.name))


def _plain(name: str) -> str:
    return name.replace("-", "_")
