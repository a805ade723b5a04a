"""The kinds of board that targets.yaml may name: ours, and those that an installed package adds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

Environment = Literal["gpu", "cpu", "fpga", "host"]


@dataclass(frozen=True, slots=True)
class BoardKind:
    """One kind of board.

    Args:
        name: as in targets.yaml.
        family: whose identity, telemetry and throttling it has: jetson, raspberry-pi, xilinx, nvidia, generic.
        environment: whose rules quantize for it unless the target says otherwise; None: the target must say.
    """

    name: str
    family: str
    environment: Environment | None


_FAMILIES: dict[tuple[str, Environment], tuple[str, ...]] = {
    ("jetson", "gpu"): (
        "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier",
        "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor",
    ),
    ("raspberry-pi", "cpu"): ("raspberry-pi-zero-2", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"),
    ("xilinx", "fpga"): ("zcu102", "zcu104", "kv260", "ultra96"),
    ("nvidia", "gpu"): ("nvidia-gpu",),
    ("generic", "cpu"): ("generic",),
}  # fmt: skip

#: Their boards are ARM computers: an agent that says x86 is not on one of them.
ARM_FAMILIES = frozenset({"jetson", "raspberry-pi", "xilinx"})

#: By name.
BOARDS = {
    name: BoardKind(name, family, environment) for (family, environment), names in _FAMILIES.items() for name in names
}

#: Where a package registers a board kind of its own; the agent's group, so that one registration serves both sides.
_GROUP = "quantrig.agent.boards"


def find_board(name: str) -> BoardKind | None:
    """The kind of that name, None when there is none. A plug-in's code is not imported here."""
    if name in BOARDS:
        return BOARDS[name]
    return BoardKind(name, name, None) if entry_points(group=_GROUP, name=name) else None
