"""The timing model of a DPUCZDX8G: its formula, and its constants as fitted by benchmarks/fit_dpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.emulation.performance.dpu import DpuConfig
from harness.emulation.performance.dpu_layers import Work
from harness.emulation.performance.timing import ModelError

#: A number, or one for each of many layers.
Number = TypeVar("Number", float, NDArray[np.float64])

#: How sharply a layer's time turns from the larger of two bounds to the other: norm of this order. No constant is
#: fitted here: orders 2 to 4 and the plain maximum differ by .3 points of mean error.
_SHARPNESS = 4
#: Processors beside the DPU (Cortex-A53), each of which can prepare an image.
HOST_PROCESSORS = 4


@dataclass(frozen=True, slots=True)
class DpuModel:
    """The constants of the timing model.

    Args:
        array_efficiency: share of its cycles that the array of multipliers works.
        side_efficiency: the same of the unit for depthwise convolution, pooling and element-wise work.
        port_bytes_per_cycle: what one core moves at most; it has two ports of 16 bytes.
        memory_gb_per_s: what a board's memory gives all cores together, by board.
        launch_us: of each layer.
        host_ms: of the processor beside the DPU, for each image.
        host_ns_per_pixel: of the processor, for each pixel of the input.
        host_ns_per_value: of the processor, for each value that leaves the DPU.
        error: how far it was from published figures.
    """

    array_efficiency: float
    side_efficiency: float
    port_bytes_per_cycle: float
    memory_gb_per_s: Mapping[str, float]
    launch_us: float
    host_ms: float
    host_ns_per_pixel: float
    host_ns_per_value: float
    error: ModelError

    def compute_ms(self, array_cycles: Number, side_cycles: Number, clock_mhz: float) -> Number:
        """Time of a layer's arithmetic."""
        return (array_cycles / self.array_efficiency + side_cycles / self.side_efficiency) / (clock_mhz * 1e3)

    def memory_ms(self, moved_bytes: Number, config: DpuConfig, busy_cores: int) -> Number:
        """Time of a layer's transfers: the core's own ports, and its share of the board's memory."""
        given = config.memory_gb_per_s or self.memory_gb_per_s[config.board.name]
        port_ms = moved_bytes / (self.port_bytes_per_cycle * config.clock_mhz * 1e3)
        return both(port_ms, moved_bytes * busy_cores / (given * 1e6))

    def layers_ms(self, work: Works, config: DpuConfig, busy_cores: int) -> float:
        """Time of all layers of an image on one core while `busy_cores` work."""
        compute = self.compute_ms(work.array_cycles, work.side_cycles, config.clock_mhz)
        memory = self.memory_ms(work.moved_bytes, config, busy_cores)
        return float(np.sum(both(compute, memory)) + self.launch_us * 1e-3 * work.launches)

    def image_ms(self, pixels: int, values: int) -> float:
        """The host's time for an image with that many pixels, of which that many values leave the DPU."""
        return self.host_ms + 1e-6 * (self.host_ns_per_pixel * pixels + self.host_ns_per_value * values)

    def frames_per_second(self, core_ms: float, host_ms: float, cores: int) -> float:
        """With every core busy: what the cores take, or what the processors can prepare."""
        return 1e3 * min(cores / core_ms, HOST_PROCESSORS / host_ms)


def both(first: Number, second: Number) -> Number:
    """Time of two things that run side by side: nearly the larger one."""
    either: Number = (first**_SHARPNESS + second**_SHARPNESS) ** (1 / _SHARPNESS)
    return either


@dataclass(frozen=True, eq=False)
class Works:
    """The work of many layers, one element each."""

    array_cycles: NDArray[np.float64]
    side_cycles: NDArray[np.float64]
    moved_bytes: NDArray[np.float64]
    launches: int

    @classmethod
    def of(cls, works: list[Work]) -> Works:
        """Gather them."""
        return cls(
            np.array([work.array_cycles for work in works], np.float64),
            np.array([work.side_cycles for work in works], np.float64),
            np.array([work.moved_bytes for work in works], np.float64),
            sum(work.launches for work in works),
        )


#: As `python -m benchmarks.fit_dpu` finds them; tests hold both the constants and the errors to the published rates.
MODEL = DpuModel(
    array_efficiency=1.0,
    side_efficiency=1.0,
    port_bytes_per_cycle=30.74,
    memory_gb_per_s={"zcu102": 12.47, "zcu104": 15.47, "kv260": 15.47, "ultra96": 2.143},
    launch_us=9.602,
    host_ms=0.07279,
    host_ns_per_pixel=8.864,
    host_ns_per_value=1.533,
    error=ModelError(
        5.6,
        5.0,
        64,
        "10 constants fitted to 111 published frame rates of 14 networks on 4 boards; the 64 rates are of 6 networks "
        "that it was not fitted to",
    ),
)
