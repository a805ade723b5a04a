"""Which of a Xilinx board's powers is a total."""

from __future__ import annotations

from collections.abc import Mapping

from agents.boards.parse.platformstats import TOTAL

#: The power monitor at the input of a K26 SOM; its index in hwmon changes from boot to boot, its name does not.
_SOM_INPUT = "ina260_u14/"


def som_total(power_mw: Mapping[str, float]) -> tuple[float | None, str | None]:
    """The one documented total of these boards: the power monitor at the input of a K26 SOM (ina260_u14).

    The many monitors of a ZCU102 or ZCU104 sit behind its converters and leave rails out: their sum is no total.
    """
    if TOTAL in power_mw:
        return power_mw[TOTAL], TOTAL
    for name, value in power_mw.items():
        if name.startswith(_SOM_INPUT):
            return value, name
    return None, None
