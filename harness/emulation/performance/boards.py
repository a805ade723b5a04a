"""The boards that a DPUCZDX8G is modelled on: device, usual configuration, memory, host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """What a programmable device holds, so that a share can be told.

    Args:
        name: of the device.
        lut: look-up tables.
        bram: block RAMs of 36 Kbit.
        dsp: DSP slices.
        register: flip-flops; None where the source does not say.
        source: where the totals stand.
    """

    name: str
    lut: int
    bram: int
    dsp: int
    register: int | None
    source: str


@dataclass(frozen=True, slots=True)
class DpuBoard:
    """A board with a Zynq UltraScale+, and the DPU that its published figures were taken with.

    Args:
        name: as a user writes it.
        title: as its maker writes it.
        device: the part; None where no public totals are at hand.
        arch: of the usual DPU.
        clock_mhz: of the usual DPU.
        cores: of the usual DPU.
    """

    name: str
    title: str
    device: Device | None
    arch: str
    clock_mhz: float
    cores: int


_XCZU9EG = Device("xczu9eg", 274080, 912, 2520, None, "MathWorks' estimate-resource-utilization page: device totals")
_K26 = Device("K26 (xck26)", 117120, 144, 1248, None, "Kria apps documentation 2022.1, nlp-smartvision, hw_arch_accel")

#: Usual configurations: those of the rows in Vitis AI's model zoo (2.5; Ultra96: its section of 1.4, whose ZCU102 has
#: 287 MHz).
DPU_BOARDS: Mapping[str, DpuBoard] = {
    board.name: board
    for board in (
        DpuBoard("zcu102", "ZCU102", _XCZU9EG, "B4096", 281.0, 3),
        DpuBoard("zcu104", "ZCU104", None, "B4096", 300.0, 2),
        DpuBoard("kv260", "KV260", _K26, "B4096", 300.0, 1),
        DpuBoard("ultra96", "Ultra96", None, "B1600", 287.0, 1),
    )
}
