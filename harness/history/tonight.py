"""What a night came to: what the page tells, and the command returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ExitCode
from harness.history.alarms import Told
from harness.history.analysis import Insight
from harness.history.changes import Story
from harness.store.nights import Night

#: Outcome of an entry that the night had no time for.
OUT_OF_TIME = "out of time"


@dataclass(frozen=True, slots=True)
class Tonight:
    """What a night came to.

    Args:
        night: as it is kept; its entries say what ran.
        insight: of the plan's series up to tonight.
        told: every step with its alarm.
        code: the exit code.
        folder: of the night.
        last: the night before, None for the first one.
    """

    night: Night
    insight: Insight
    told: tuple[Told, ...]
    code: ExitCode
    folder: Path
    last: Night | None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What ran: job, targets, run_id, outcome, error, code, statuses, gates that did not pass."""
        entries: list[dict[str, Any]] = self.night.details["entries"]
        return entries

    @property
    def departed(self) -> list[Story]:
        """The series whose figure of tonight departs for certain: counted figures, suspected steps."""
        here = self.night.night_id
        return [one for one in self.insight.stories if one.sure is not None and one.sure.new.night == here]

    @property
    def new(self) -> list[Told]:
        """The steps that are told tonight for the first time."""
        return [one for one in self.told if one.alarm.state == "new"]
