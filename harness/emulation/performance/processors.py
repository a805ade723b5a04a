"""The deep learning processors of MathWorks' bitstreams: threads, clock, pages, and how far their model is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from harness.emulation.performance.timing import ModelError
from harness.errors import UserError

DataType = Literal["single", "int8"]

#: What the constants of the cycle model were fitted on; tests compute the same numbers from the published rows.
_SINGLE = (
    "conv, fc, max-pool and normalization constants fitted on the one published table, MathWorks' own estimate "
    "(not a measurement) of LogoNet on zcu102_single: network +0.07 %, conv within 0.42 %, fc within 0.02 %, "
    "normalization -0.1 %, max-pool +8, +9, -27 and +1 % (unexplained)"
)
_LEFT_OUT = (
    "; each of its rows left out of the fit in turn: conv within 3.5 %, fc within 3.7 %, max-pool within 33 %, but for "
    "maxpool_4, 0.06 % of the cycles, without which nothing tells what starting a pool takes"
)
_INT8 = (
    f"{_SINGLE}; carried over to 64/16 threads, its clock fitted on the one published rate of zcu102_int8, LogoNet's "
    "19.433 FPS: -2.7 % (257 MHz would give it exactly)"
)
_ARRIA = (
    f"{_SINGLE}; carried over to this board, 16 fc threads read off its one published profile (MNIST-FC: 2,048 "
    "products in 160 cycles), of which the network's cycles are overestimated by 24 %"
)
_CUSTOM = "; these threads or this clock have no published figure to compare with"


@dataclass(frozen=True, slots=True)
class Processor:
    """A deep learning processor as MathWorks' bitstreams hold it.

    Args:
        name: the bitstream's, "custom" where threads or clock differ from it.
        data_type: what it computes in.
        conv_threads: of the convolution module, a square.
        fc_threads: of the fully connected module.
        clock_mhz: of the processor.
        clock_source: where the clock comes from.
        part: the FPGA.
        page_bytes: external memory is given out in pages of this size.
        page_source: where that comes from.
        error: of the cycle model on it.
        base: the bitstream that it is, or was made from.
    """

    name: str
    data_type: DataType
    conv_threads: int
    fc_threads: int
    clock_mhz: float
    clock_source: str
    part: str
    page_bytes: int
    page_source: str
    error: ModelError
    base: str

    @property
    def lanes(self) -> int:
        """How many channels go in and come out at a time, p = sqrt(conv_threads)."""
        return math.isqrt(self.conv_threads)

    @property
    def element_bytes(self) -> int:
        """Of one value."""
        return 1 if self.data_type == "int8" else 4

    @property
    def conv_peak(self) -> int:
        """Multiply-accumulates per cycle of the convolution module: a 3x3 window on p x p channels.

        Inferred: the fitted 1.0828 cycles per window make 92 % of it.
        """
        return 9 * self.conv_threads

    @property
    def title(self) -> str:
        """For a reader."""
        made = self.name if self.name == self.base else f"custom processor (from {self.base})"
        return (
            f"{made}: {self.data_type}, {self.conv_threads}/{self.fc_threads} threads (conv/fc), "
            f"{self.clock_mhz:g} MHz ({self.clock_source})"
        )


_PUBLISHED_PAGE = "as on its published memory map"
PROCESSORS: Mapping[str, Processor] = {
    processor.name: processor
    for processor in (
        Processor(
            "zcu102_single",
            "single",
            conv_threads=16,
            fc_threads=4,
            clock_mhz=220.0,
            clock_source="published",
            part="xczu9eg",
            page_bytes=128 * 1024,
            page_source="taken from zcu102_int8: no map of zcu102_single is published",
            error=ModelError(6.4, 0.7, 11, _SINGLE + _LEFT_OUT, "of its fit, each left out of it in turn"),
            base="zcu102_single",
        ),
        Processor(
            "zcu102_int8",
            "int8",
            conv_threads=64,
            fc_threads=16,
            clock_mhz=250.0,
            clock_source="fitted",
            part="xczu9eg",
            page_bytes=128 * 1024,
            page_source=_PUBLISHED_PAGE,
            error=ModelError(None, None, 0, _INT8),
            base="zcu102_int8",
        ),
        Processor(
            "arria10soc_single",
            "single",
            conv_threads=16,
            fc_threads=16,
            clock_mhz=150.0,
            clock_source="published",
            part="Arria 10 SoC",
            page_bytes=4 * 1024,
            page_source=_PUBLISHED_PAGE,
            error=ModelError(24.3, 24.3, 1, _ARRIA),
            base="arria10soc_single",
        ),
    )
}
#: Where custom threads are given and no bitstream is named.
DEFAULT_BASE = "zcu102_single"


def find_processor(
    bitstream: str | None = None,
    *,
    conv_threads: int | None = None,
    fc_threads: int | None = None,
    clock_mhz: float | None = None,
) -> Processor:
    """A bitstream's processor, or one with other threads and another clock.

    Args:
        bitstream: the bitstream, or what a custom processor is made from; None: `DEFAULT_BASE`.
        conv_threads: of the convolution module; a square, its root is the number of channels at a time.
        fc_threads: of the fully connected module.
        clock_mhz: of the processor.

    Raises:
        UserError: no such bitstream, or threads or a clock that cannot be.
    """
    name = DEFAULT_BASE if bitstream is None else bitstream
    found = PROCESSORS.get(name)
    if found is None:
        message = (
            f"bitstream {name!r} is unknown; known are {', '.join(PROCESSORS)}; for another one start from one of them "
            "and give its --conv-threads, --fc-threads and --clock-mhz"
        )
        raise UserError(message)
    if conv_threads is not None and (conv_threads < 1 or math.isqrt(conv_threads) ** 2 != conv_threads):
        below = max(1, math.isqrt(max(conv_threads, 0)))
        message = f"conv threads {conv_threads}: must be a square, such as {below**2} or {(below + 1) ** 2}"
        raise UserError(message)
    if fc_threads is not None and fc_threads < 1:
        message = f"fc threads {fc_threads}: must be at least 1"
        raise UserError(message)
    if clock_mhz is not None and not 0 < clock_mhz < math.inf:
        message = f"clock {clock_mhz:g} MHz: must be more than 0"
        raise UserError(message)
    made = replace(
        found,
        conv_threads=conv_threads or found.conv_threads,
        fc_threads=fc_threads or found.fc_threads,
        clock_mhz=float(clock_mhz or found.clock_mhz),
    )
    if made == found:
        return found
    return replace(
        made,
        name="custom",
        clock_source=found.clock_source if made.clock_mhz == found.clock_mhz else "given",
        error=ModelError(None, None, 0, found.error.fitted + _CUSTOM),
    )
