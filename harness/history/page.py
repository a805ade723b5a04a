"""The page of a night and the list of nights: static HTML in the style of the report, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from harness._version import __version__
from harness.errors import ExitCode
from harness.history.alarms import Told
from harness.history.changes import Story
from harness.history.chart import STYLE, change_text, series_chart, size_text, spark
from harness.history.gates import gates_of, gates_text
from harness.history.plan import NightPlan
from harness.history.tonight import OUT_OF_TIME, Tonight
from harness.history.words import interval_text, levels_text, machine_effect, sure_text, suspect_line
from harness.report import text
from harness.report.page import template
from harness.store.nights import Night

#: More drawings than anybody scrolls through; the table below has all series.
_DRAWINGS = 40


#: A board that measured, but too warm: its figures are there.
_THROTTLED = "throttled"


@dataclass(frozen=True, slots=True)
class _Row:
    """A step in the table."""

    told: Told
    size: str
    interval: str
    levels: str
    sure: str
    better: str


def night_html(plan: NightPlan, tonight: Tonight, last: Sequence[Night]) -> str:
    """The content of a night's page.

    Args:
        plan: whose night it is.
        tonight: what it came to.
        last: the newest nights, this one among them.
    """
    told = sorted(tonight.told, key=lambda one: (one.change.first.started, one.change.key), reverse=True)
    stories = tonight.insight.stories
    drawn = [story for story in stories if story.changes or story.suspected is not None]
    drawn.sort(key=lambda story: max((one.index for one in story.changes), default=0), reverse=True)
    return template("night.html.j2").render(
        plan=plan.name,
        night=tonight.night,
        started=text.instant(tonight.night.started),
        elapsed=text.elapsed(tonight.night.started, tonight.night.finished),
        outcome=outcome(tonight),
        good=tonight.code is ExitCode.GOOD and not tonight.new and not any(one.worse for one in tonight.departed),
        new=[_row(one) for one in told if one.alarm.state == "new"],
        known=[_row(one) for one in told if one.alarm.state == "seen"],
        acknowledged=[_row(one) for one in told if one.alarm.state == "acknowledged"],
        gates=gates_of(tonight.entries),
        shared=tonight.insight.shared,
        suspected=[suspect_line(story) for story in stories if story.suspected is not None],
        machine=[(one, machine_effect(one), one.point.started[:10]) for one in tonight.insight.machine],
        entries=[_entry(one) for one in tonight.entries],
        charts=[(story, series_chart(story, f"chart-{i}")) for i, story in enumerate(drawn[:_DRAWINGS])],
        undrawn=max(len(drawn) - _DRAWINGS, 0),
        series=[_series(story, i) for i, story in enumerate(stories)],
        nights=[_night(one) for one in last],
        here=tonight.night.night_id,
        style=Markup(STYLE),  # noqa: S704 (our own words)
        version=__version__,
        missing=text.MISSING,
    )


def index_html(plan: str, last: Sequence[Night]) -> str:
    """The list of a plan's nights, the newest first."""
    return template("nights.html.j2").render(
        plan=plan, nights=[_night(one) for one in last], version=__version__, missing=text.MISSING
    )


def outcome(tonight: Tonight) -> str:
    """The night in one sentence."""
    worse = [one for one in tonight.new if one.change.worse]
    machine = sum(one.change.of_machine for one in tonight.new)
    parts = []
    if tonight.new:
        of_machine = f", {machine} of them of the machine's" if machine else ""
        count = f"{len(tonight.new)} new {'change' if len(tonight.new) == 1 else 'changes'}"
        parts.append(f"{count}, {len(worse)} for the worse{of_machine}")
    else:
        parts.append(f"Nothing new in {len(tonight.insight.stories)} series")
    if departed := tonight.departed:
        worse_ones = sum(one.worse for one in departed)
        parts.append(f"{len(departed)} suspected on this night alone, {worse_ones} for the worse")
    if asked := gates_text(gates_of(tonight.entries)):
        parts.append(asked)
    failed = [entry for entry in tonight.entries if entry["outcome"] == "failed"]
    states = [pair for entry in tonight.entries for pair in entry.get("statuses", {}).items()]
    boards = [name for name, state in states if state != _THROTTLED]
    hot = [name for name, state in states if state == _THROTTLED]
    cut = [entry["job"] for entry in tonight.entries if entry["outcome"] == OUT_OF_TIME]
    if failed:
        parts.append(f"{', '.join(entry['job'] for entry in failed)} could not run")
    if boards:
        parts.append(f"{', '.join(dict.fromkeys(boards))} failed")
    if hot:
        parts.append(f"{', '.join(dict.fromkeys(hot))} throttled")
    if cut:
        parts.append(f"no time for {', '.join(cut)}")
    return "; ".join(parts) + "."


def _row(one: Told) -> _Row:
    change = one.change
    better = "worse" if change.worse else "better"
    return _Row(one, change_text(change), interval_text(change), levels_text(change), sure_text(change), better)


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    problems = [f"{name}: {why}" for name, why in entry.get("statuses", {}).items()]
    if entry.get("error"):
        problems.append(entry["error"])
    states = entry.get("statuses", {})
    done = [name for name in entry["targets"] if name not in states]
    word = entry["outcome"]
    if word == "done" and states:
        word = "throttled" if set(states.values()) == {_THROTTLED} else "board failed"
    # a link only where the run published a page
    return entry | {"problems": problems, "word": word, "done": done if entry["outcome"] == "done" else []}


def _series(story: Story, number: int) -> dict[str, Any]:
    series = story.series
    key = series.key
    last = series.points[-1]
    level = story.found.levels[-1]
    noise = size_text(story.found.noise.tau, series.unit, key.metric, relative=series.logarithmic).lstrip("+")
    return {
        "key": key,
        "last": text.value_text(last.value, series.unit, key.metric),
        "interval": text.interval_text(last.low, last.high, series.unit, key.metric),
        "level": text.value_text(series.back(level.value), series.unit, key.metric),
        "since": series.points[level.start].started[:10],
        "nights": len(series.points),
        "noise": noise,
        "source": series.source.value,
        "spark": spark(story, f"spark-{number}"),
    }


def _night(night: Night) -> dict[str, Any]:
    entries = night.details.get("entries", [])
    return {
        "id": night.night_id,
        "started": text.instant(night.started),
        "status": night.status,
        "jobs": f"{sum(one['outcome'] == 'done' for one in entries)} of {len(entries)}",
        "failed": ", ".join(dict.fromkeys(name for one in entries for name in one.get("statuses", {}))),
        "new": night.details.get("new"),
        "code": night.details.get("code"),
    }
