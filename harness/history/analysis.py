"""What the nights of a plan (or any runs) say: series, steps, machine changes, steps with a shared cause."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.history.changes import Change, MachineChange, Shared, Story, machine_changes, shared, tell
from harness.history.departure import samples_in
from harness.history.environment import environment
from harness.history.series import Key, Series, gather
from harness.store.nights import Night, Nights


@dataclass(frozen=True, slots=True)
class Insight:
    """Everything found in a set of series."""

    stories: tuple[Story, ...]
    machine: tuple[MachineChange, ...]
    shared: tuple[Shared, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """All steps, the newest first."""
        found = [change for story in self.stories for change in story.changes]
        return tuple(sorted(found, key=lambda one: (one.first.started, one.key), reverse=True))


#: Of a night's details: the series that its plan names, None: the usual ones. Nights of older versions kept none.
METRICS = "metrics"


def runs_of(night: Night) -> list[str]:
    """The runs of a night."""
    return [entry["run_id"] for entry in night.details.get("entries", []) if entry.get("run_id")]


def series_of(
    nights: Nights, of_nights: Sequence[Night] | None, metrics: Sequence[str] | None = None
) -> tuple[Series, ...]:
    """Series of these nights' runs; None: of every run in the store.

    Args:
        nights: where they are kept.
        of_nights: in any order.
        metrics: which (`harness.history.series.followed`).
    """
    night_of = {run: night.night_id for night in of_nights or () for run in runs_of(night)}
    wanted: Collection[str] | None = None if of_nights is None else night_of
    kept = nights.figures(wanted, metrics)
    runs = list(dict.fromkeys(one.run_id for one in kept))
    surroundings: dict[tuple[str, str], dict[str, str]] = dict(nights.surroundings(runs))
    known = {run for run, _ in surroundings}
    # runs that no night made: what their targets said of themselves is there, the host's part is not
    for place, record in nights.records([run for run in runs if run not in known]).items():
        surroundings[place] = environment(record)
    return gather(kept, surroundings, night_of, metrics)


def series_of_plans(nights: Nights, of_nights: Sequence[Night]) -> tuple[Series, ...]:
    """Series as the plans of these nights follow them, each by its newest night; of several plans all that any follows.

    Args:
        nights: where they are kept.
        of_nights: in any order.
    """
    by_plan = {one.plan: one.details.get(METRICS) for one in sorted(of_nights, key=lambda one: one.started)}
    named = tuple(dict.fromkeys(name for metrics in by_plan.values() for name in metrics or ()))
    followed: dict[Key, Series] = {}
    if None in by_plan.values():
        followed |= {one.key: one for one in series_of(nights, of_nights)}
    if named:
        followed |= {one.key: one for one in series_of(nights, of_nights, named)}
    return tuple(followed[key] for key in sorted(followed))


def look(series: Sequence[Series], nights: Nights | None = None) -> Insight:
    """All that is found in these series.

    Args:
        series: one or many.
        nights: where their runs are kept, whose samples tell what one night alone lost; None: not asked.
    """
    samples = None if nights is None else samples_in(nights)
    stories = tuple(tell(one, samples) for one in series)
    changes = [change for story in stories for change in story.changes]
    return Insight(stories, machine_changes(stories), shared(changes))
