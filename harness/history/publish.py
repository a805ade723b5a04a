"""The files of a night: its page, its JSON, and the page that lists the nights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.history.alarms import Told, details
from harness.history.page import index_html, night_html
from harness.history.plan import NightPlan
from harness.history.tonight import Tonight
from harness.report.files import write_files
from harness.store.nights import Nights

#: How many nights the index lists.
LISTED = 60


def publish_night(plan: NightPlan, nights: Nights, tonight: Tonight) -> None:
    """Write the night's index.html and night.json, and the list of nights above it.

    Raises:
        UserError: the folder cannot be written.
    """
    last = nights.nights(plan.name, LISTED)
    write_files(
        {
            tonight.folder / "index.html": night_html(plan, tonight, last),
            tonight.folder / "night.json": json.dumps(night_json(tonight), indent=1) + "\n",
            plan.out / "index.html": index_html(plan.name, last),
        }
    )


def night_json(tonight: Tonight) -> dict[str, Any]:
    """The night as plain JSON: what `--json` prints and night.json holds."""
    return {
        "schema_version": 1,
        "night": tonight.night.night_id,
        "plan": tonight.night.plan,
        "started": tonight.night.started,
        "finished": tonight.night.finished,
        "exit_code": int(tonight.code),
        "folder": str(tonight.folder),
        "entries": tonight.entries,
        "changes": [_told(one) for one in _newest_first(tonight.told)],
        "suspected": [
            {"job": s.series.key.job, "target": s.series.key.target, "network": s.series.key.network,
             "metric": s.series.key.metric, "change": s.suspected, "relative": s.series.logarithmic,
             "worse": s.worse, "how": None if s.sure is None else s.sure.how}
            for s in tonight.insight.stories if s.suspected is not None
        ],
        "machine_changes": [
            {"target": one.target, "night": one.point.night, "run_id": one.point.run_id,
             "fields": [{"cause": d.cause.value, "field": d.name, "old": d.old, "new": d.new} for d in one.what],
             "stepped": [str(key) for key in one.stepped]}
            for one in tonight.insight.machine
        ],
        "shared": [{"night": one.night, "sentence": one.sentence} for one in tonight.insight.shared],
        "series": len(tonight.insight.stories),
    }  # fmt: skip


def _told(one: Told) -> dict[str, Any]:
    key = one.change.key
    return {
        "alarm": one.alarm.number, "state": one.alarm.state, "job": key.job, "target": key.target,
        "network": key.network, "metric": key.metric, "first_run_id": one.change.first.run_id,
        **details(one.change, str(one.alarm.details.get("night", ""))),
    }  # fmt: skip


def _newest_first(told: Sequence[Told]) -> list[Told]:
    return sorted(told, key=lambda one: (one.change.first.started, one.change.key), reverse=True)
