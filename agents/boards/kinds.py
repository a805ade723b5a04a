"""Which family a kind of board belongs to; the host's list (harness/targets/boards.py), held equal by a test."""

from __future__ import annotations

_FAMILIES = {
    "jetson": (
        "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier",
        "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor",
    ),
    "raspberry-pi": ("raspberry-pi-zero-2", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5"),
    "xilinx": ("zcu102", "zcu104", "kv260", "ultra96"),
    "nvidia": ("nvidia-gpu",),
    "generic": ("generic",),
}  # fmt: skip

#: Kind → family.
FAMILY_OF = {kind: family for family, kinds in _FAMILIES.items() for kind in kinds}


def family_of(kind: str) -> str:
    """The family of a kind; "generic" for a name that no family has."""
    return FAMILY_OF.get(kind, "generic")
