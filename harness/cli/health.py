"""`quantrig targets check` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from harness.targets.check import TargetHealth


def health_table(found: Sequence[TargetHealth]) -> Table:
    """One line a target, the problem or the warnings in the last column."""
    table = Table(
        "target", "fit", "agent", "runtime", "memory free", "disk free", "int8", "remark", box=None, pad_edge=False
    )
    for one in found:
        remark = one.problem or "; ".join(one.warnings)
        cells = (
            one.name,
            "yes" if one.fit else "no",
            one.agent_version or "-",
            one.runtime or "-",
            _gib(one.memory_available_bytes),
            _gib(one.storage_free_bytes),
            one.canary or "-",
            remark,
        )
        style = "" if one.fit else "red"
        table.add_row(*(Text(cell, overflow="fold") for cell in cells), style=style)
    return table


def _gib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
