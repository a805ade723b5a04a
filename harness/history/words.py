"""How findings are put into words: the same on the page, in a terminal and in the mail that cron sends."""

from __future__ import annotations

from harness.history.alarms import Told
from harness.history.changes import Change, MachineChange, Story, attributed
from harness.history.chart import change_text, size_text
from harness.report.text import TIMES, significant, value_text

_PER = "%"


def interval_text(change: Change) -> str:
    """The 95 % interval of a change: "[+2.1, +4.0] %"."""
    low, high = (size_text(end, change.unit, change.key.metric, relative=change.relative) for end in change.interval)
    return f"[{low}, {high}]"


def levels_text(change: Change) -> str:
    """Old and new level: "1.20 ms → 1.24 ms"."""
    return f"{_level(change.old, change)} → {_level(change.new, change)}"


def _level(value: float, change: Change) -> str:
    """One digit more than usual: a step of 2 % must be seen in it."""
    if change.unit in {"fraction", "bytes", "percent"}:
        return value_text(value, change.unit, change.key.metric.removesuffix("_delta"))
    if change.unit == "x":
        return f"{significant(value, 4)}{TIMES}"
    return f"{significant(value, 4)} {change.unit}".strip()


def sure_text(change: Change) -> str:
    """How sure it is: the test, how long it has been seen, and whether the night itself is certain."""
    p = "p < 0.0001" if change.p < 1e-4 else f"p = {significant(change.p, 2)}"
    seen = f"seen {change.nights} nights"
    if change.earliest.run_id == change.latest.run_id:
        return f"{p}, {seen}"
    return f"{p}, {seen}; it began between {change.earliest.started[:10]} and {change.latest.started[:10]}"


def change_line(told: Told) -> str:
    """One line of the mail that cron sends."""
    change = told.change
    what = "worse" if change.worse else "better"
    return (
        f"{change.key}: {change_text(change)} {interval_text(change)} ({what}), {levels_text(change)}, "
        f"since {change.first.started[:10]} (run {change.first.run_id}), {sure_text(change)}; {change.attribution} "
        f"[alarm {told.alarm.number}]"
    )


def suspect_line(story: Story) -> str:
    """One night alone is no step yet."""
    series = story.series
    assert story.suspected is not None
    size = size_text(story.suspected, series.unit, series.key.metric, relative=series.logarithmic)
    if story.sure is None:
        return f"{series.key}: {size} on the last night alone; the next night tells whether it stays"
    old, new = (value_text(point.value, series.unit, series.key.metric) for point in (story.sure.old, story.sure.new))
    return (
        f"{series.key}: suspected step of {size} ({'worse' if story.worse else 'better'}), {old} → {new}, on the last "
        f"night alone: {story.sure.how}; {attributed(story.sure.causes)}; the next night tells whether it stays"
    )


def machine_line(change: MachineChange) -> str:
    """A machine change and what came of it."""
    listed = ", ".join(str(one) for one in change.what)
    return f"{change.target}: the machine changed here: {listed} ({machine_effect(change)})"


def machine_effect(change: MachineChange) -> str:
    """What came of it."""
    words = []
    if change.stepped:
        words.append(f"{len(change.stepped)} series stepped")
    if change.quiet:
        words.append(f"{change.quiet} show no step")
    if change.early:
        words.append(f"{change.early} wait for a second night")
    return ", ".join(words) or "no series"
