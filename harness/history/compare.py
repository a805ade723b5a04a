"""Two runs side by side: every figure that both have, its difference with an interval, and what they depended on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.history.environment import Difference, differences, environment
from harness.history.series import DIFFERENCES
from harness.judge.baseline import mover
from harness.record.figure import Figure
from harness.record.target import TargetRecord
from harness.store.nights import KeptFigure, Nights

#: Computed, not measured: the same network on the same samples gives the same figure, so any difference is one.
_EXACT = ("learnable_memory", "sqnr_db", "cosine", "max_abs_diff")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in two runs.

    Args:
        target: on which board.
        network: which network, or Ratio.
        metric: its name.
        unit: of old and new.
        old: of the first run.
        new: of the second.
        relative: whether `change` is a ratio less one or a difference in the unit.
        change: from old to new.
        interval: 95 % of it, from the two runs' own intervals; None where one of them has none.
        note: what speaks against reading it as a change.
    """

    target: str
    network: str
    metric: str
    unit: str
    old: float
    new: float
    relative: bool
    change: float
    interval: tuple[float, float] | None
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the interval leaves no change out; a reading without an interval is never said to differ."""
        if self.interval is None:
            return self.metric.startswith(_EXACT) and self.old != self.new
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    Args:
        rows: figures that both have, in the order of the first.
        surroundings: what differs in what they depended on, by target.
        only_old: targets of the first run that the second has no figure of.
        only_new: the other way round.
    """

    rows: tuple[Row, ...]
    surroundings: Mapping[str, tuple[Difference, ...]]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]


def compare_runs(nights: Nights, old: str, new: str) -> Comparison:
    """Compare two finished runs by their full ids; without figures in common there are no rows."""
    kept = nights.figures([old, new])
    ours, theirs = (_by_place(kept, run) for run in (old, new))
    rows = tuple(_row(before, theirs[place]) for place, before in ours.items() if place in theirs)
    records = nights.records([old, new])
    saved = nights.surroundings([old, new])
    targets = [[name for run, name in records if run == wanted] for wanted in (old, new)]
    around = {
        name: differences(_around(saved, records, old, name), _around(saved, records, new, name))
        for name in targets[0]
        if name in targets[1]
    }
    only = [sorted({place[0] for place in a} - {place[0] for place in b}) for a, b in ((ours, theirs), (theirs, ours))]
    return Comparison(rows, around, tuple(only[0]), tuple(only[1]))


def _row(old: Figure, new: Figure) -> Row:
    assert old.value is not None  # the store is asked for figures with a value only
    assert new.value is not None
    relative = old.unit != "fraction" and old.metric not in DIFFERENCES and old.value > 0 and new.value > 0
    notes = []
    if old.unit != new.unit or old.source is not new.source:
        notes.append(f"{old.source.value} {old.unit} and {new.source.value} {new.unit} are not the same kind of number")
    ends = [_ends(figure, relative=relative) for figure in (old, new)]
    interval = mover(ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    change = new.value / old.value - 1 if relative else new.value - old.value
    if interval is not None and relative:
        interval = math.expm1(interval[0]), math.expm1(interval[1])
    return Row(
        old.target, old.network.value, old.metric, new.unit, old.value, new.value, relative, change, interval,
        "; ".join(notes),
    )  # fmt: skip


def _ends(figure: Figure, *, relative: bool) -> tuple[float, float, float] | None:
    if figure.ci_low is None or figure.ci_high is None or figure.value is None or (relative and figure.ci_low <= 0):
        return None
    ends = (figure.value, figure.ci_low, figure.ci_high)
    return (math.log(ends[0]), math.log(ends[1]), math.log(ends[2])) if relative else ends


def _by_place(kept: Sequence[KeptFigure], run: str) -> dict[tuple[str, str, str], Figure]:
    return {
        (one.figure.target, one.figure.network.value, one.figure.metric): one.figure
        for one in kept
        if one.run_id == run
    }


def _around(
    saved: Mapping[tuple[str, str], Mapping[str, str]],
    records: Mapping[tuple[str, str], TargetRecord],
    run: str,
    target: str,
) -> Mapping[str, str]:
    return saved.get((run, target)) or environment(records[run, target])
