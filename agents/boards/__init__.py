"""Board families, one file each; third parties add theirs through the entry point `quantrig.agent.boards`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from agents.boards.base import Board
from agents.boards.generic import GenericLinux
from agents.boards.kinds import FAMILY_OF, family_of
from agents.boards.sources import Sources

_GROUP = "quantrig.agent.boards"
#: Ours, imported only when asked for.
_FAMILIES = {
    "jetson": ("agents.boards.jetson", "Jetson"),
    "raspberry-pi": ("agents.boards.raspberry_pi", "RaspberryPi"),
    "xilinx": ("agents.boards.xilinx", "Xilinx"),
    "nvidia": ("agents.boards.nvidia", "NvidiaGpu"),
}


def find_board(kind: str = "", sources: Sources | None = None) -> Board:
    """The board of that kind; "" is this machine as it is.

    A kind without a family of its own is a Linux machine under that name.

    Args:
        kind: already checked as an identifier, or "".
        sources: another tree than this machine's "/"; a third party's board takes none.
    """
    if kind and kind != "generic":
        for point in entry_points(group=_GROUP, name=kind):
            module, _, name = point.value.partition(":")
            board: Board = getattr(import_module(module), name)()
            return board
    if (family := _FAMILIES.get(family_of(kind))) is not None:
        module, name = family
        ours: Board = getattr(import_module(module), name)(kind, sources)
        return ours
    return GenericLinux(kind or "generic", sources)


def has_kind(kind: str) -> bool:
    """Whether a family of ours or a third party's package has it; `find_board` reads any other as a Linux machine."""
    return kind in FAMILY_OF or bool(entry_points(group=_GROUP, name=kind))
