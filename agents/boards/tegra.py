"""What a line of tegrastats means as telemetry, and which of a Jetson's rails are its total."""

from __future__ import annotations

from collections.abc import Mapping

from agents.boards.base import Telemetry
from agents.boards.parse.tegrastats import Load, TegrastatsLine

#: Rails that are the whole module's or board's input, by NVIDIA's guides: VDD_IN and POM_5V_IN feed everything else
#: that the line names; VIN is the input monitor (INA238) of AGX Thor's carrier.
_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")

#: Modules without such a rail, whose monitored inputs are disjoint and complete: AGX Xavier (product design guide
#: DG-09840, 5.6.2: five supplies from SYS_VIN_HV, and SYS_VIN_MV) and AGX Orin (developer guide: the DDR rail
#: VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0 and counted there). AGX Thor's three are documented as neither.
_SUMS = (
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
)


def total_power(power_mw: Mapping[str, float]) -> tuple[float | None, str | None]:
    """A Jetson's total and the rail, or the rails joined by "+", that it is; (None, None) where none is documented."""
    for rail in _INPUTS:
        if rail in power_mw:
            return power_mw[rail], rail
    for rails in _SUMS:
        if power_mw.keys() >= set(rails):
            return sum(power_mw[rail] for rail in rails), "+".join(rails)
    return None, None


def telemetry_of(line: TegrastatsLine, unix_s: float) -> Telemetry:
    """The line as a sample. Whether the board is throttled no line of tegrastats tells: None."""
    total_mw, rail = total_power(line.power_mw)
    gpu_mhz = _clock(line.gpu)
    clocks = {"cpu": _mean(line.cpu), "gpu": gpu_mhz, "emc": _clock(line.memory_controller)}
    return Telemetry(
        unix_s=unix_s,
        ram_used_mb=line.ram_used_mb,
        ram_total_mb=line.ram_total_mb,
        cpu_percent=[core.percent for core in line.cpu],
        gpu_percent=line.gpu.percent if line.gpu is not None else None,
        temperature_c=line.temperature_c,
        power_mw=line.power_mw,
        total_power_mw=total_mw,
        total_power_rail=rail,
        clock_mhz=gpu_mhz,
        clocks_mhz={name: value for name, value in clocks.items() if value is not None},
    )


def _clock(load: Load | None) -> float | None:
    """Mean of the unit's clocks that run; 0 is a cluster that is switched off, and no clock."""
    running = [clock for clock in load.clocks_mhz if clock > 0] if load is not None else []
    return sum(running) / len(running) if running else None


def _mean(cores: tuple[Load, ...]) -> float | None:
    """Mean clock of the cores that are on."""
    clocks = [clock for core in cores for clock in core.clocks_mhz if clock > 0]
    return sum(clocks) / len(clocks) if clocks else None
