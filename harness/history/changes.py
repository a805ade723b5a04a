"""From series to what changed: every step with its causes, machine changes, and steps that share a cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.history.departure import Departure, SamplesOf, find_departure
from harness.history.environment import OF_MACHINE, Cause, Difference, differences
from harness.history.series import Key, Point, Series
from harness.history.steps import Found, Step, find_steps
from harness.judge.baseline import less_is_better


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one series, in the words of its figure.

    Args:
        key: of the series.
        unit: of old and new.
        old: level before.
        new: level after.
        relative: whether `change` is a ratio less one (0.03: 3 % more) or a difference in the unit.
        change: its size.
        interval: 95 % interval of it.
        p: two-sided, of the t test.
        nights: how many nights the new level has been seen.
        first: the first run on the new level.
        last_old: the last one on the old level.
        earliest: the first night that the data allow for the change, as a run.
        latest: the last one.
        causes: what is recorded to have changed there, most telling first; empty: nothing is.
        index: of `first` in the series.
        count: nights in the series.
    """

    key: Key
    unit: str
    old: float
    new: float
    relative: bool
    change: float
    interval: tuple[float, float]
    p: float
    nights: int
    first: Point
    last_old: Point
    earliest: Point
    latest: Point
    causes: tuple[Difference, ...]
    index: int
    count: int

    @property
    def worse(self) -> bool:
        """Whether the new level is what nobody wants: slower, larger, less accurate."""
        return (self.change > 0) == less_is_better(self.key.metric)

    @property
    def of_machine(self) -> bool:
        """Whether the machine or its runtime changed at the step: then the step is theirs."""
        return any(one.cause in OF_MACHINE for one in self.causes)

    @property
    def mixed(self) -> bool:
        """Whether model, data or code changed the same night as the machine: the two cannot be told apart."""
        return self.of_machine and any(one.cause not in OF_MACHINE for one in self.causes)

    @property
    def attribution(self) -> str:
        """Whose doing it is, in one line."""
        return attributed(self.causes)


def attributed(causes: Sequence[Difference]) -> str:
    """Whose doing it is that these fields changed, in one line."""
    listed = ", ".join(str(one) for one in causes[:4]) + (", …" if len(causes) > 4 else "")
    machine = [one for one in causes if one.cause in OF_MACHINE]
    if machine and len(machine) < len(causes):
        return f"the machine changed here, and more besides, so they cannot be told apart: {listed}"
    if machine:
        return f"the machine changed here: {listed}"
    if causes:
        whose = " and ".join(dict.fromkeys(one.cause.value for one in causes))
        return f"{whose} changed here: {listed}"
    return "nothing that is recorded changed here"


@dataclass(frozen=True, slots=True)
class MachineChange:
    """A target's machine or runtime is not what it was the run before.

    Args:
        target: whose.
        point: the first run on the changed machine.
        what: the fields.
        stepped: the series that have a step there.
        quiet: how many of the target's series show none.
        early: how many have not been seen for two nights since.
    """

    target: str
    point: Point
    what: tuple[Difference, ...]
    stepped: tuple[Key, ...]
    quiet: int
    early: int


@dataclass(frozen=True, slots=True)
class Story:
    """One series with all that was found in it; `sure`: its last night departs and no noise explains it."""

    series: Series
    found: Found
    changes: tuple[Change, ...]
    regimes: tuple[int, ...]
    sure: Departure | None = None

    @property
    def suspected(self) -> float | None:
        """Departure of the last night alone: ratio less one, or difference; None where there is none."""
        change = self.found.suspected if self.sure is None else self.sure.change
        if change is None:
            return None
        return math.expm1(change) if self.series.logarithmic else change

    @property
    def worse(self) -> bool:
        """Whether what is suspected is what nobody wants."""
        return self.suspected is not None and (self.suspected > 0) == less_is_better(self.series.key.metric)


@dataclass(frozen=True, slots=True)
class Shared:
    """Several series that stepped on one night.

    Args:
        night: when.
        changes: they.
        causes: the recorded differences that all of them have.
    """

    night: str
    changes: tuple[Change, ...]
    causes: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """What it says."""
        targets = sorted({one.key.target for one in self.changes})
        jobs = sorted({one.key.job for one in self.changes})
        where = f"{len(self.changes)} series of {_listed('board', targets)} and {_listed('job', jobs)} stepped together"
        if self.causes:
            return f"{where}: they share {', '.join(str(one) for one in self.causes[:4])}"
        return f"{where}: a shared cause is likely, and none is recorded"


def tell(series: Series, samples: SamplesOf | None = None) -> Story:
    """Steps of a series, each with its causes, and whether its last night departs.

    Args:
        series: its nights.
        samples: where what each sample contributed is kept; None: nowhere.
    """
    regimes, moved = _regimes(series.points)
    found = find_steps(series.values, series.errors, regimes, least_change=series.least_change)
    changes = tuple(_change(series, found, step, moved) for step in found.steps)
    causes = moved.get(len(series.points) - 1, ())
    return Story(series, found, changes, tuple(regimes), find_departure(series, found.levels, causes, samples))


def machine_changes(stories: Sequence[Story]) -> tuple[MachineChange, ...]:
    """Machine changes of every target, the newest first, each once although many series show it."""
    seen: dict[tuple[str, tuple[str, ...]], tuple[Point, tuple[Difference, ...]]] = {}
    for story in stories:
        _, moved = _regimes(story.series.points)
        for index, what in moved.items():
            machine = tuple(one for one in what if one.cause in OF_MACHINE)
            if machine:
                point = story.series.points[index]
                name = (story.series.key.target, tuple(f"{one.name}={one.new}" for one in machine))
                if name not in seen or point.started < seen[name][0].started:
                    seen[name] = (point, machine)
    listed = [_machine_change(target, point, what, stories) for (target, _), (point, what) in seen.items()]
    return tuple(sorted(listed, key=lambda one: one.point.started, reverse=True))


def shared(changes: Sequence[Change]) -> tuple[Shared, ...]:
    """Changes of several boards or jobs that began the same night, the newest first."""
    by_night: dict[str, list[Change]] = {}
    for change in changes:
        by_night.setdefault(change.first.night, []).append(change)
    found = []
    for night, group in by_night.items():
        if len({(one.key.target, one.key.job) for one in group}) < 2:
            continue
        common = [cause for cause in group[0].causes if all(_has(one, cause) for one in group[1:])]
        found.append(Shared(night, tuple(group), tuple(common)))
    return tuple(sorted(found, key=lambda one: one.night, reverse=True))


def _has(change: Change, cause: Difference) -> bool:
    """Boards differ in what their int8 network is, so for a digest it is enough that it changed too."""
    return any(
        own.cause is cause.cause and own.name == cause.name and (len(cause.new) == 64 or own == cause)
        for own in change.causes
    )


def _regimes(points: Sequence[Point]) -> tuple[list[int], dict[int, tuple[Difference, ...]]]:
    """A number for the machine of each point, and what differs at each point from what was known before it."""
    known: dict[str, str] = {}
    regimes: list[int] = []
    moved: dict[int, tuple[Difference, ...]] = {}
    for index, point in enumerate(points):
        what = differences(known, point.surroundings) if index else ()
        if what:
            moved[index] = what
        changed = any(one.cause in OF_MACHINE for one in what)
        regimes.append((regimes[-1] if regimes else 0) + int(changed))
        known |= point.surroundings
    return regimes, moved


def _change(series: Series, found: Found, step: Step, moved: Mapping[int, tuple[Difference, ...]]) -> Change:
    before = next(level for level in found.levels if level.stop == step.index)
    after = next(level for level in found.levels if level.start == step.index)
    relative = series.logarithmic
    out = math.expm1 if relative else float
    low, high = step.interval
    return Change(
        series.key,
        series.unit,
        series.back(before.value),
        series.back(after.value),
        relative,
        out(step.change),
        (out(low), out(high)),
        step.p,
        step.nights,
        series.points[step.index],
        series.points[step.index - 1],
        series.points[step.earliest],
        series.points[step.latest],
        _causes(step, moved),
        step.index,
        len(series.points),
    )


def _causes(step: Step, moved: Mapping[int, tuple[Difference, ...]]) -> tuple[Difference, ...]:
    """What changed at the step itself, else nearby, as far as the data allow the step to lie there.

    A machine change cuts the series, so a step found between cuts is none of the machine's.
    """
    at = moved.get(step.index)
    if at:
        return at
    near = [i for i in range(step.earliest, step.latest + 1) if i in moved]
    near.sort(key=lambda i: abs(i - step.index))
    return tuple(one for one in moved[near[0]] if one.cause not in OF_MACHINE) if near else ()


def _machine_change(target: str, point: Point, what: tuple[Difference, ...], stories: Sequence[Story]) -> MachineChange:
    stepped: list[Key] = []
    quiet = early = 0
    for story in stories:
        if story.series.key.target != target:
            continue
        same = [i for i, own in enumerate(story.series.points) if own.night == point.night]
        if not same:
            continue
        if any(change.index == same[0] for change in story.changes):
            stepped.append(story.series.key)
        elif len(story.series.points) - same[0] < 2:
            early += 1
        else:
            quiet += 1
    return MachineChange(target, point, what, tuple(stepped), quiet, early)


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what} {names[0]}" if len(names) == 1 else f"{what}s {', '.join(names)}"


__all__ = [
    "Cause",
    "Change",
    "MachineChange",
    "Shared",
    "Story",
    "attributed",
    "machine_changes",
    "shared",
    "tell",
]
