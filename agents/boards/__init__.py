"""Board families, one file each; third parties add theirs through the entry point `quantrig.agent.boards`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from agents.boards.base import Board
from agents.boards.generic import GenericLinux

_GROUP = "quantrig.agent.boards"


def find_board(kind: str = "") -> Board:
    """The board of that kind; "" is this machine as it is.

    A kind without a family of its own is a Linux machine under that name.

    Args:
        kind: already checked as an identifier, or "".
    """
    if kind:
        for point in entry_points(group=_GROUP, name=kind):
            module, _, name = point.value.partition(":")
            board: Board = getattr(import_module(module), name)()
            return board
    return GenericLinux(kind or "generic")
