"""Alarms: a step is told once, then kept with its state until somebody acknowledges it or later nights take it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.history.changes import Change, Story
from harness.history.series import Key
from harness.store.nights import Alarm, Nights

#: A step that lies further back is history when it is first seen (a new plan on an old store): listed, not raised.
RAISED_WITHIN = 14
#: More nights move a step's place by a little; within so many nights it is the same step.
SAME_STEP_NIGHTS = 3


@dataclass(frozen=True, slots=True)
class Told:
    """A step and the alarm that stands for it."""

    change: Change
    alarm: Alarm


def update_alarms(nights: Nights, plan: str, night_id: str, now: str, stories: Sequence[Story]) -> list[Told]:
    """Bring the plan's alarms to what its series say tonight.

    Args:
        nights: where they are kept.
        plan: whose.
        night_id: tonight.
        now: ISO 8601.
        stories: all series of the plan.

    Returns:
        Every step with its alarm; those raised tonight have the state "new". Alarms whose step is no longer found are
        withdrawn, and never raised again should it come back.
    """
    kept = nights.alarms(plan)
    told: list[Told] = []
    matched: set[int] = set()
    for story in stories:
        own = [alarm for alarm in kept if _key(alarm) == story.series.key]
        places = {point.run_id: index for index, point in enumerate(story.series.points)}
        for change in story.changes:
            same = next((one for one in own if one.number not in matched and _same(one, change, places)), None)
            if same is None:
                told.append(Told(change, _raise(nights, plan, night_id, now, change)))
                continue
            matched.add(same.number)
            told.append(Told(change, _again(nights, night_id, same, change)))
        for alarm in own:
            gone = alarm.number not in matched and alarm.state != "withdrawn"
            if gone and alarm.first_run_id in places:  # what is out of sight is not taken back
                nights.update_alarm(alarm.number, state="withdrawn")
    return told


def details(change: Change, night_id: str) -> dict[str, Any]:
    """A change as plain JSON."""
    return {
        "night": night_id,
        "since": change.first.night,
        "started": change.first.started,
        "last_old_run_id": change.last_old.run_id,
        "unit": change.unit,
        "old": change.old,
        "new": change.new,
        "relative": change.relative,
        "change": change.change,
        "ci_low": change.interval[0],
        "ci_high": change.interval[1],
        "p": change.p,
        "nights": change.nights,
        "worse": change.worse,
        "of_machine": change.of_machine,
        "attribution": change.attribution,
        "causes": [
            {"cause": one.cause.value, "field": one.name, "old": one.old, "new": one.new} for one in change.causes
        ],
    }


def _key(alarm: Alarm) -> Key:
    return Key(alarm.job, alarm.target, alarm.network, alarm.metric)


def _same(alarm: Alarm, change: Change, places: Mapping[str, int]) -> bool:
    if (alarm.details.get("change", 0) > 0) != (change.change > 0):
        return False
    place = places.get(alarm.first_run_id)
    return place is not None and abs(place - change.index) <= SAME_STEP_NIGHTS


def _raise(nights: Nights, plan: str, night_id: str, now: str, change: Change) -> Alarm:
    recent = change.index >= change.count - RAISED_WITHIN
    key = change.key
    alarm = Alarm(
        plan, key.job, key.target, key.network, key.metric, change.first.run_id, now,
        "new" if recent else "seen", details(change, night_id),
    )  # fmt: skip
    return replace(alarm, number=nights.add_alarm(alarm))


def _again(nights: Nights, night_id: str, alarm: Alarm, change: Change) -> Alarm:
    """A known step, known a night better; what was raised earlier tonight (`--resume`) stays new."""
    raised = alarm.details.get("night", night_id)
    state = alarm.state
    if state == "withdrawn" or (state == "new" and raised != night_id):
        state = "seen"
    content = details(change, str(raised))
    nights.update_alarm(alarm.number, state=state, details=content)
    return replace(alarm, state=state, details=content)
