"""A departure of the last night alone, in figures that are counted and not measured.

The search for steps knows a new level after two nights and learns a series' noise from its nights, so in a young series
it is silent when a network loses twenty points. Every night asks the same samples: there one night is enough to be
told as suspected. Where what each sample contributed was kept, the interval of the difference on the same samples
decides (`harness.judge.baseline.paired_change`); where it was not, any difference from a level that never moved does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import UserError
from harness.history.environment import Difference
from harness.history.series import DIFFERENCES, Key, Point, Series
from harness.history.steps import Level
from harness.judge.baseline import paired_change
from harness.judge.samples import KeptSamples, read_samples
from harness.store.nights import Nights

#: What each sample contributed to a series' figure in one of its runs; None where that was not kept.
SamplesOf = Callable[[Key, str], KeptSamples | None]
#: Counted, although changes of it are ratios.
_COUNTED = ("learnable_memory_bytes",)


@dataclass(frozen=True, slots=True)
class Departure:
    """The last night beside the one before it.

    Args:
        change: new minus old, in the unit of `Series.values` (a logarithm for memory).
        old: the night before.
        new: the last night.
        how: what makes it certain.
        causes: what is recorded to have changed between the two.
    """

    change: float
    old: Point
    new: Point
    how: str
    causes: tuple[Difference, ...]


def find_departure(
    series: Series, levels: Sequence[Level], causes: tuple[Difference, ...], samples: SamplesOf | None
) -> Departure | None:
    """Whether the last night departs from all others of its level; None where it does not, or noise may explain it.

    Args:
        series: of any figure; one that is measured never departs here.
        levels: that its nights were found to have, in order, covering all.
        causes: what is recorded to have changed on the last night.
        samples: where kept samples are; None: nowhere.
    """
    if len(series.points) < 2 or not _is_counted(series):
        return None
    last = levels[-1]
    # a level that begins tonight is one that a change of the machine cut off: the level before it is what there was
    level = last if last.stop - last.start > 1 else levels[-2]
    values = np.array(series.values)
    before = values[level.start : min(level.stop, len(values) - 1)]
    moved = float(np.ptp(before))
    change = float(values[-1] - before[-1])
    if abs(change) < series.least_change or abs(change) <= moved * (1 + 1e-9):
        return None
    old, new = series.points[-2], series.points[-1]
    how = _paired(series, old, new, samples)
    if how is None and moved < series.least_change:
        same = f"and the same for {len(before)} nights" if len(before) > 1 else "with one night before it"
        how = f"counted, not measured, {same}"
    return Departure(change, old, new, how, causes) if how else None


def samples_in(nights: Nights) -> SamplesOf:
    """Kept samples of runs that the store knows, from the runs' folders as far as those are what they were."""

    def read(key: Key, run_id: str) -> KeptSamples | None:
        record = nights.records([run_id]).get((run_id, key.target))
        kept = () if record is None else record.samples
        one = next((one for one in kept if one.network == key.network and key.metric in one.metrics), None)
        if one is None:
            return None
        try:
            content = (nights.folder(run_id) / one.path).read_bytes()
            # the next run of the job may have taken the folder over
            return read_samples(content) if hashlib.sha256(content).hexdigest() == one.digest else None
        except (OSError, UserError):
            return None

    return read


def _is_counted(series: Series) -> bool:
    return series.unit == "fraction" or series.key.metric in DIFFERENCES or series.key.metric in _COUNTED


def _paired(series: Series, old: Point, new: Point, samples: SamplesOf | None) -> str | None:
    """How the two nights differ on the same samples; "" where they do not for certain; None where nobody can say."""
    if samples is None:
        return None
    then, now = (samples(series.key, point.run_id) for point in (old, new))
    if then is None or now is None:
        return None
    interval, how = paired_change(series.key.metric, then, now)
    if interval is None:
        return None if then.ids == now.ids else ""  # other samples: a difference of theirs is none of the network's
    return "" if interval.low <= 0 <= interval.high else how
