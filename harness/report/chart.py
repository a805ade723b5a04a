"""What every plot of the page is: a drawing, how to read it, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from markupsafe import Markup

from harness.record.target import TargetRecord
from harness.report import svg

#: Rows of one drawing: more would not fit on a printed page.
_MOST_ROWS = 12
#: More rows of numbers than this are folded away.
_MOST_OPEN = 10


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the numbers behind it.

    Args:
        identity: unique in the page.
        title: heading of the drawing.
        caption: how to read it.
        drawing: the `<svg>`.
        headers: of the table of numbers.
        rows: its cells; the first of a row is its header.
    """

    identity: str
    title: str
    caption: str
    drawing: Markup
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def folded(self) -> bool:
        """Whether the numbers are too many to stand open."""
        return len(self.rows) > _MOST_OPEN


def tick_label(value: float, scale: svg.Scale, *, factor: float = 1.0) -> str:
    """A tick's number with the decimals that its scale needs."""
    if scale.logarithmic:
        return f"{value * factor:,.12g}"
    step = (scale.ticks[1] - scale.ticks[0]) if len(scale.ticks) > 1 else abs(value) or 1.0
    decimals = max(0, -int(np.floor(np.log10(step * factor) + 1e-9)))
    return f"{value * factor:,.{decimals}f}"


def boards_of(targets: tuple[TargetRecord, ...]) -> list[tuple[str, list[TargetRecord]]]:
    """The targets in order, the settings of one sweep together under their entry's name."""
    found: dict[str, list[TargetRecord]] = {}
    for target in targets:
        found.setdefault(target.entry_name, []).append(target)
    return list(found.items())


def parts_of(rows: Sequence[_T]) -> list[Sequence[_T]]:
    """The rows in as many parts of about the same length as there must be drawings."""
    count = max(1, math.ceil(len(rows) / _MOST_ROWS))
    each = math.ceil(len(rows) / count)
    return [rows[start : start + each] for start in range(0, len(rows), each)] if rows else []


def of_parts(number: int, count: int) -> str:
    """What a title says of one part of several: " (1 of 3)"; nothing where there is one."""
    return f" ({number} of {count})" if count > 1 else ""
