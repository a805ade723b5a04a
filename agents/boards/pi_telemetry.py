"""What the firmware of a Raspberry Pi says, as telemetry."""

from __future__ import annotations

from collections.abc import Sequence

from agents.boards.base import Telemetry
from agents.boards.parse.vcgencmd import PMIC_TOTAL, Reading


def telemetry_of(reading: Reading, reasons: Sequence[str] | None, unix_s: float) -> Telemetry:
    """The answers of one moment as a sample; what the firmware does not tell (memory, loads) is unknown.

    Args:
        reading: the answers.
        reasons: of `ThrottleWatch.reasons`.
        unix_s: when they were given.
    """
    total_mw = reading.total_power_mw
    return Telemetry(
        unix_s=unix_s,
        temperature_c={"soc": reading.temperature_c} if reading.temperature_c is not None else {},
        power_mw=reading.power_mw,
        total_power_mw=total_mw,
        total_power_rail=PMIC_TOTAL if total_mw is not None else None,
        throttled=bool(reasons) if reasons is not None else None,
        throttled_by=reasons or (),
        clock_mhz=reading.clocks_mhz.get("arm"),
        clocks_mhz=reading.clocks_mhz,
    )
