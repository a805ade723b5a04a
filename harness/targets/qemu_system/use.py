"""Targets of a lab file that are emulated boards: checked before a run, started for its duration, provisioned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.targets.qemu_system.recipe import Recipe

if TYPE_CHECKING:
    from harness.targets.target import Target, Via

Progress = Callable[[str, float, float | None], None]


def recipe_of(target: Target) -> Recipe:
    """The board that `via: {qemu: MACHINE}` describes."""
    return Recipe(machine=target.via.machine or "virt", board=target.board)


def nothing_runs(target: Target) -> str:
    """What to say of its power and console between runs; "" for any other target."""
    if target.via.machine is None or target.via.address is not None:
        return ""
    return (
        f"{target.name}: this board runs only while a run does; for one to look at and to switch: "
        f"quantrig lab up --machine {target.via.machine} --board {target.board}"
    )


def check_ready(target: Target) -> None:
    """Say before a run starts what would stop it later; a board that runs already needs nothing.

    Raises:
        UserError: a program lacks, no such machine or processor, no image.
    """
    from harness.targets.qemu_system.image import current_image
    from harness.targets.qemu_system.tools import find_tools

    if target.via.address is not None:
        return
    machine = recipe_of(target).check(target.name)
    find_tools(target.name)
    if current_image(machine) is None:
        raise UserError(
            f"{target.name}: the emulated boards' image is not on this machine yet; "
            f"`quantrig targets provision {target.name}` makes it (under a minute, once)"
        )


@contextmanager
def started_board(target: Target) -> Iterator[Via]:
    """Start the target's board from its snapshot; how it is reached while the block runs.

    Raises:
        UserError: as `check_ready`.
        BoardError: it did not start.
    """
    from harness.targets.qemu_system.board import QemuBoard

    with QemuBoard(recipe_of(target), name=target.name, make=False) as board:
        yield board.target.via


@contextmanager
def reachable(target: Target) -> Iterator[Target]:
    """The target itself, or, where it is a board that is started here, as it is reached while the block runs.

    One board for the whole block, with its own SSH, console and power: it can be lost and brought back in between,
    where `connect` alone would start another one each time.

    Raises:
        UserError: as `check_ready`.
        BoardError: it did not start.
    """
    if target.via.machine is None or target.via.address is not None:
        yield target
        return
    from harness.targets.qemu_system.board import QemuBoard

    with QemuBoard(recipe_of(target), name=target.name, make=False) as board:
        own = board.target
        yield replace(target, via=own.via, ssh=own.ssh, console=own.console, power=own.power)


def provision(
    target: Target, *, apt_sources: Path | None = None, fresh: bool = False, progress: Progress
) -> tuple[Path, str, bool]:
    """Make the image and the snapshot that the target starts from.

    Args:
        target: with `via: {qemu: MACHINE}`.
        apt_sources: a sources.list to use instead of the machine's.
        fresh: take the newest packages and wheels although an image is there.
        progress: phase, done, total.

    Returns:
        The image's folder, what is in it, and whether it was made now.

    Raises:
        UserError: a program lacks, no network, a full disk.
        BoardError: the board did not boot.
    """
    from harness.targets.qemu_system.golden import prepare
    from harness.targets.qemu_system.image import make_image
    from harness.targets.qemu_system.tools import find_tools

    recipe = recipe_of(target)
    machine = recipe.check(target.name)
    tools = find_tools(target.name)
    image, made = make_image(target.name, machine, tools, apt_sources=apt_sources, fresh=fresh, progress=progress)
    prepare(target.name, recipe, progress=progress)
    known = image.manifest
    return image.folder, f"Linux {known.kernel} with Python {known.python} on {machine.name}", made


def unprovision(target: str) -> bool:
    """Remove images, snapshots, keys and downloads of emulated boards; whether there were any.

    Raises:
        UserError: a board runs.
    """
    from harness.targets.qemu.tree import delete
    from harness.targets.qemu_system.image import alone, home

    if not home().exists():
        return False
    with alone(target, timeout_s=0):
        boards = home() / "boards"
        if boards.is_dir() and any(boards.iterdir()):
            raise UserError(f"{target}: an emulated board runs; end it first (`quantrig lab down`)")
        delete(home())
    return True
