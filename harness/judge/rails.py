"""Which power of a sample stands for the work: the board's own total, or the processor's where nothing tells more."""

from __future__ import annotations

import math
import re

from harness.record.timing import TelemetryRecord

#: RAPL's zones that hold whole packages ("package-0"); cores and memory inside or beside them have names of their own.
_PACKAGE = re.compile(r"package-\d+")


def drawn(point: TelemetryRecord) -> tuple[float, str] | None:
    """Power in mW and the rail's name, or None.

    A board's total is its input. A PC without the platform's counter has none: its processor packages are taken, under
    a name that says so; memory, disks, fans and the supply's losses are not in it.
    """
    if point.total_power_mw is not None:
        known = math.isfinite(point.total_power_mw)
        return (point.total_power_mw, point.total_power_rail or "unnamed") if known else None
    packages = {name: mw for name, mw in point.power_mw.items() if _PACKAGE.fullmatch(name) and math.isfinite(mw)}
    if not packages:
        return None
    return math.fsum(packages.values()), f"{'+'.join(sorted(packages))} (RAPL, processor only)"
