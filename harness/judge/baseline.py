"""Is a figure worse than it was? Decided on the interval of its change, never on the two values alone.

    found = change_of(old, new)             # two figures of one place; or with the interval of paired samples
    found.standing                          # better, same, unclear, worse

Two runs of one board differ by more than their own intervals say: it is warmer, the process lies elsewhere in memory.
So a change counts as worse only when its whole interval lies beyond what may be lost, and as unclear when the interval
reaches beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from harness.errors import UserError
from harness.judge.bootstrap import paired_bootstrap
from harness.judge.metrics.names import formula_of
from harness.judge.samples import KeptSamples
from harness.judge.statistics import Interval, mean_interval, tango
from harness.record.figure import Figure, Network, Source

#: What may be lost before it is a regression. Times of a board move by a few percent from run to run without a cause;
#: 5 % is also the least change that the .NET runtime's performance lab files (`../shared/facts/methodology.md`).
OF_TIMES = 0.05
#: A process's peak memory moves by pages and arenas.
OF_MEMORY = 0.05
#: Weights are counted, not measured.
OF_WEIGHTS = 0.0001
#: Accuracies and other fractions: half of the one point that gates usually ask for.
OF_FRACTIONS = 0.005
#: In the figure's own unit.
OF_DIFFERENCES: Mapping[str, float] = {"sqnr_db": 0.5, "cosine": 0.0001}
#: Counts and extremes, and what is computed: of this run or these samples they are what they are.
_EXACT = ("learnable_memory", "peak_memory", "sqnr_db", "cosine", "max_abs_diff", "reference_lsb", "temperature_")
_LESS_IS_BETTER = ("_ms", "_mj", "_bytes", "_w", "_c", "_percent", "_ratio", "_lsb", "_s", "max_abs_diff")
_ERRORS = ("mse",)


class Standing(StrEnum):
    """How a figure stands beside what it was, worst last."""

    BETTER = "better"  # more than what may be lost was won, for certain
    SAME = "same"  # no more than what may be lost was lost
    UNCLEAR = "unclear"  # a loss that matters can be neither shown nor excluded
    WORSE = "worse"  # more than what may be lost, for certain


@dataclass(frozen=True, slots=True)
class Change:
    """One figure then and now.

    Args:
        target: on which board.
        network: which network, or Ratio.
        metric: its name.
        unit: of both.
        old: of the baseline; None where it has none.
        new: of this run; None where it has none.
        relative: whether `change`, `interval` and `tolerance` are ratios less one, or differences in the unit.
        change: from old to new.
        interval: 95 % of it; None where there is none.
        tolerance: what may be lost.
        less_is_better: which side is the good one.
        standing: what came of it.
        note: how the interval came to be, or why nothing can be said.
    """

    target: str
    network: Network
    metric: str
    unit: str
    old: float | None
    new: float | None
    relative: bool
    change: float | None
    interval: tuple[float, float] | None
    tolerance: float
    less_is_better: bool
    standing: Standing
    note: str = ""

    def unclear(self, why: str) -> Change:
        """The same, with a reason not to take it for what it seems."""
        return replace(self, standing=Standing.UNCLEAR, note=why)


def less_is_better(metric: str) -> bool:
    """Whether a smaller figure is the better one."""
    return metric.endswith(_LESS_IS_BETTER) or metric.removesuffix("_delta") in _ERRORS


def tolerance_of(metric: str, unit: str) -> float:
    """What may be lost of a metric: a share of what it was, or a difference of fractions or in its unit."""
    if metric in OF_DIFFERENCES:
        return OF_DIFFERENCES[metric]
    if unit == "fraction":
        return OF_FRACTIONS
    if metric.startswith("learnable_memory"):
        return OF_WEIGHTS
    return OF_MEMORY if unit == "bytes" else OF_TIMES


def change_of(
    old: Figure,
    new: Figure | None,
    *,
    paired: Interval | None = None,
    tolerance: float | None = None,
    less: bool | None = None,
    note: str = "",
) -> Change:
    """One figure in two runs.

    Args:
        old: of the baseline, with a value.
        new: of this run; None where it has no such row.
        paired: interval of new - old on the same samples; None: from the two runs' own intervals.
        tolerance: what may be lost; None: as `tolerance_of`.
        less: whether a smaller figure is the better one; None: as `less_is_better`.
        note: how `paired` came to be, or why it could not.
    """
    relative = _relative(old, new)
    lost = tolerance_of(old.metric, old.unit) if tolerance is None else tolerance
    less = less_is_better(old.metric) if less is None else less
    found = Change(
        old.target, old.network, old.metric, old.unit, old.value, None if new is None else new.value, relative, None,
        None, lost, less, Standing.UNCLEAR, note,
    )  # fmt: skip
    if new is None or new.value is None or old.value is None:
        return found.unclear(f"not there now{f': {new.note}' if new is not None and new.note else ''}")
    if (old.unit, old.source) != (new.unit, new.source):
        return found.unclear(
            f"{old.source.value} {old.unit} then, {new.source.value} {new.unit} now".replace("  ", " ")
        )
    change = new.value / old.value - 1 if relative else new.value - old.value
    ends = _of_both(old, new, relative=relative)
    if paired is not None:
        scale = old.value if relative else 1.0
        ends = (paired.low / scale, paired.high / scale)
    if ends is None and (old.metric.startswith(_EXACT) or new.source is Source.MODELLED):
        ends = (change, change)
    if ends is None:
        return replace(found, change=change, note=note or "without an interval nothing can be said")
    return replace(found, change=change, interval=ends, standing=_standing(ends, lost, less=less))


def _standing(interval: tuple[float, float], tolerance: float, *, less: bool) -> Standing:
    """By the interval of the change; a tolerance of nothing still lets a figure stay where it was."""
    least_loss, worst_loss = interval if less else (-interval[1], -interval[0])
    if least_loss > tolerance:
        return Standing.WORSE
    if worst_loss > tolerance:
        return Standing.UNCLEAR
    return Standing.BETTER if worst_loss < -tolerance else Standing.SAME


def _relative(old: Figure, new: Figure | None) -> bool:
    differs = old.unit == "fraction" or old.metric in OF_DIFFERENCES
    positive = all(figure is None or figure.value is None or figure.value > 0 for figure in (old, new))
    return not differs and positive


def _of_both(old: Figure, new: Figure, *, relative: bool) -> tuple[float, float] | None:
    ends = [_ends(figure, relative=relative) for figure in (old, new)]
    if ends[0] is None or ends[1] is None:
        return None
    low, high = mover(ends[0], ends[1])
    return (math.expm1(low), math.expm1(high)) if relative else (low, high)


def _ends(figure: Figure, *, relative: bool) -> tuple[float, float, float] | None:
    if figure.value is None or figure.ci_low is None or figure.ci_high is None or (relative and figure.ci_low <= 0):
        return None
    ends = (figure.value, figure.ci_low, figure.ci_high)
    return (math.log(ends[0]), math.log(ends[1]), math.log(ends[2])) if relative else ends


def mover(old: tuple[float, float, float], new: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of new - old from the interval of each (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        old: (value, low, high).
        new: the same.

    Returns:
        (low, high); the two are taken for independent, which on the same samples errs to the wide side.
    """
    difference = new[0] - old[0]
    low = difference - math.hypot(new[0] - new[1], old[2] - old[0])
    return low, difference + math.hypot(new[2] - new[0], old[0] - old[1])


def paired_change(metric: str, old: KeptSamples, new: KeptSamples) -> tuple[Interval | None, str]:
    """Interval of new - old of one metric of one network, on the samples that both runs asked.

    Returns:
        (interval, how it was made): Tango's for right-or-wrong metrics, else t of the paired differences or the paired
        bootstrap; [0, 0] where every sample came out as before; (None, why) where the two cannot be paired.
    """
    if old.ids != new.ids:
        return None, "other samples than the baseline's"
    if (old.labels is None) != (new.labels is None) or (
        old.labels is not None and new.labels is not None and not np.array_equal(old.labels, new.labels)
    ):
        return None, "other labels than the baseline's"
    if metric not in old.rows or metric not in new.rows:
        return None, "no results sample by sample"
    then, now = old.rows[metric], new.rows[metric]
    count = len(new.ids)
    if then.columns.keys() == now.columns.keys() and all(
        np.array_equal(then[name], now[name]) for name in then.columns
    ):
        return Interval(0.0, 0.0), f"all {count:,} samples came out as before"
    try:
        formula = formula_of(metric, now)
        one, other = formula.per_sample(then), formula.per_sample(now)
        if one is None or other is None:
            return paired_bootstrap(formula, then, now).difference, f"paired bootstrap over {count:,} samples"
    except (UserError, ValueError, KeyError) as error:
        return None, f"the samples of the two runs do not go together ({error})"
    if bool(np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all()):
        lost, won = int(np.sum((one == 1) & (other == 0))), int(np.sum((one == 0) & (other == 1)))
        return tango(won, lost, count), f"on the same {count:,} samples {lost} lost, {won} won"
    return mean_interval(other - one), f"paired on {count:,} samples"
