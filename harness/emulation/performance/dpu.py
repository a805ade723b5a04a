"""A DPUCZDX8G as a user orders it: size, clock, cores, board."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.emulation.performance.boards import DPU_BOARDS, DpuBoard
from harness.errors import UserError


@dataclass(frozen=True, slots=True)
class DpuArch:
    """One size of the DPUCZDX8G (PG338, 'Architecture of the DPU': the three dimensions of its parallelism).

    Args:
        name: B and the peak operations per cycle.
        pixels: output pixels at once.
        input_channels: at once.
        output_channels: at once.
    """

    name: str
    pixels: int
    input_channels: int
    output_channels: int

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of one core in one cycle."""
        return self.pixels * self.input_channels * self.output_channels

    @property
    def peak_ops_per_cycle(self) -> int:
        """Two per multiply-accumulate: the number in its name."""
        return 2 * self.macs_per_cycle


DPU_ARCHS: Mapping[str, DpuArch] = {
    arch.name: arch
    for arch in (
        DpuArch("B512", 4, 8, 8),
        DpuArch("B800", 4, 10, 10),
        DpuArch("B1024", 8, 8, 8),
        DpuArch("B1152", 4, 12, 12),
        DpuArch("B1600", 8, 10, 10),
        DpuArch("B2304", 8, 12, 12),
        DpuArch("B3136", 8, 14, 14),
        DpuArch("B4096", 8, 16, 16),
    )
}

#: B4096F: what Vitis AI calls the KV260's B4096 whose buffers lie in UltraRAM too.
_ALIASES = {"B4096F": "B4096"}
#: DPUs of another making that Vitis AI's tables show beside these.
_OTHER_DPUS = ("DPUCVDX8G", "DPUCVDX8H", "DPUCAHX8H", "DPUCAHX8L", "DPUCADF8H", "DPUCZDI4G", "C32B6", "C64B1")
_OTHER_BOARDS = frozenset(
    {"vck190", "vck5000", "vek280", "v70", "u50", "u50lv", "u55c", "u200", "u250", "u280", "zc702"}
)
#: PG338: at most four cores.
MOST_CORES = 4
#: Of the DPU's clock; the DSPs run at twice that. No speed grade of a Zynq UltraScale+ goes beyond.
CLOCK_RANGE_MHZ = (1.0, 400.0)


@dataclass(frozen=True, slots=True)
class DpuConfig:
    """A DPU on a board.

    Args:
        arch: size of each core.
        clock_mhz: of the cores; their DSPs run at twice that.
        cores: how many.
        board: whose memory and host it has.
        memory_gb_per_s: of the board's memory, for all cores together; None: as fitted for the board.
    """

    arch: DpuArch
    clock_mhz: float
    cores: int
    board: DpuBoard
    memory_gb_per_s: float | None = None

    @property
    def peak_ops_per_second(self) -> float:
        """Of one core."""
        return self.arch.peak_ops_per_cycle * self.clock_mhz * 1e6

    def __str__(self) -> str:
        """As a table heads it: 3 x B4096 at 281 MHz on ZCU102."""
        return f"{self.cores} x {self.arch.name} at {self.clock_mhz:g} MHz on {self.board.title}"


def dpu_config(
    arch: str = "",
    clock_mhz: float | None = None,
    cores: int | None = None,
    board: str | None = None,
    memory_gb_per_s: float | None = None,
) -> DpuConfig:
    """A DPU by names, with the board's usual values where none are given.

    Args:
        arch: B512 … B4096; "" for the board's usual one.
        clock_mhz: of the DPU; None for the board's usual one.
        cores: 1 … 4; None for the board's usual number.
        board: zcu102, zcu104, kv260 or ultra96; None for zcu102.
        memory_gb_per_s: what the memory gives all cores together, in 10^9 bytes; None: as fitted for the board.

    Raises:
        UserError: no such DPU or board; a clock, number of cores or bandwidth that none has.
    """
    where = _board(board or "zcu102")
    size = _arch(arch or where.arch)
    clock = where.clock_mhz if clock_mhz is None else float(clock_mhz)
    if not (math.isfinite(clock) and CLOCK_RANGE_MHZ[0] <= clock <= CLOCK_RANGE_MHZ[1]):
        message = (
            f"DPU clock {clock_mhz!r} MHz is out of range; give {CLOCK_RANGE_MHZ[0]:g} to {CLOCK_RANGE_MHZ[1]:g} "
            f"({where.name} usually has {where.clock_mhz:g})"
        )
        raise UserError(message)
    count = where.cores if cores is None else cores
    if not 1 <= count <= MOST_CORES:
        raise UserError(f"a DPUCZDX8G has 1 to {MOST_CORES} cores, not {cores}")
    if memory_gb_per_s is not None and not 0 < memory_gb_per_s < math.inf:
        raise UserError(f"memory bandwidth {memory_gb_per_s!r} GB/s: give a number above 0")
    return DpuConfig(size, clock, count, where, memory_gb_per_s)


def _board(name: str) -> DpuBoard:
    plain = name.strip().lower().replace("-", "").replace("_", "")
    found = DPU_BOARDS.get(plain)
    if found is not None:
        return found
    if plain in _OTHER_BOARDS:
        message = (
            f"board {name!r} carries another DPU, which this model does not explain at all; "
            f"a DPUCZDX8G is modelled on {', '.join(DPU_BOARDS)}"
        )
    else:
        message = f"board {name!r} is unknown to the DPU model; choose one of {', '.join(DPU_BOARDS)}"
    raise UserError(message)


def _arch(name: str) -> DpuArch:
    plain = name.strip().upper().removeprefix("DPUCZDX8G").lstrip("_- ")
    found = DPU_ARCHS.get(_ALIASES.get(plain, plain))
    if found is not None:
        return found
    known = ", ".join(DPU_ARCHS)
    if plain.startswith(_OTHER_DPUS):
        message = f"DPU {name!r} is of another making, which this model does not explain at all; it knows {known}"
    else:
        message = f"DPU {name!r} is unknown; choose one of {known}"
    raise UserError(message)
