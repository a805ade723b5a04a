"""`quantrig targets check` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.targets.check import TargetHealth


def health_table(found: Sequence[TargetHealth]) -> Group:
    """One line a target with its free memory and disk; problems and warnings under the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "fit", "agent", "runtime", "memory", "disk", "int8"):
        table.add_column(column, no_wrap=True)
    for one in found:
        cells = (
            one.name,
            "yes" if one.fit else "no",
            one.agent_version or "-",
            one.runtime or "-",
            _gib(one.memory_available_bytes),
            _gib(one.storage_free_bytes),
            one.canary or "-",
        )
        style = "" if one.fit else "red"
        table.add_row(*(Text(cell) for cell in cells), style=style)
    remarks = [
        Text(f"{one.name}: {text}") for one in found for text in (one.problem, *one.warnings, *one.remarks) if text
    ]
    return Group(table, *remarks)


def _gib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
