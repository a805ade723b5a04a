"""What NVIDIA's driver says of a GPU, as telemetry."""

from __future__ import annotations

from agents.boards.base import Telemetry
from agents.boards.parse.nvidia_smi import GpuReading, throttle_reasons


def telemetry_of(reading: GpuReading, unix_s: float) -> Telemetry:
    """One GPU's reading as a sample; the machine's memory and cores are not the GPU's to tell.

    The power is that of the GPU's board, memory included, and the total of nothing more: the rail is named after it.
    """
    name = f"gpu{reading.index or 0}"
    reasons = throttle_reasons(reading.reasons) if reading.reasons is not None else None
    clocks = {"gpu": reading.sm_clock_mhz, "gpu memory": reading.memory_clock_mhz}
    return Telemetry(
        unix_s=unix_s,
        gpu_percent=reading.utilization_percent,
        temperature_c={name: reading.temperature_c} if reading.temperature_c is not None else {},
        power_mw={name: reading.power_mw} if reading.power_mw is not None else {},
        total_power_mw=reading.power_mw,
        total_power_rail=name if reading.power_mw is not None else None,
        throttled=bool(reasons) if reasons is not None else None,
        throttled_by=reasons or (),
        clock_mhz=reading.sm_clock_mhz,
        clocks_mhz={key: value for key, value in clocks.items() if value is not None},
    )
