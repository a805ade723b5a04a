"""PLAN.yaml: what `quantrig nightly` runs every night: jobs, on which boards, how thoroughly, until when.

name: lab
lab: targets.yaml
profile: standard
until: "06:00"                # local time; or `budget: 6 h`
jobs:
  - squeezenet/job.yaml
  - {job: kws/job.yaml, targets: [rpi5-lab], profile: release}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.errors import UserError
from harness.job import Job, load_job
from harness.judge.gates_units import KNOWN
from harness.runs.profile import find_profile
from harness.targets.lab import Lab, load_lab
from harness.yamlfile import Document, FileModel, one_of, read_yaml, validate

FailOn = Literal["regression", "machine", "inconclusive"]
_UNITS_S = {"s": 1, "min": 60, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *(s|min|m|h)")
_NAME = re.compile(r"[a-z0-9-]{1,32}")


class _Entry(FileModel):
    job: str = Field(min_length=1)
    targets: list[str] | None = Field(default=None, min_length=1)
    profile: str | None = None
    split: Literal["validation", "all"] = "validation"


class _PlanFile(FileModel):
    name: str | None = None
    lab: str = "targets.yaml"
    jobs: list[_Entry] = Field(min_length=1)
    targets: list[str] | None = Field(default=None, min_length=1)
    profile: str = "standard"
    until: str | None = None
    budget: str | int | float | None = None
    out: str = "nightly"
    metrics: list[str] | None = Field(default=None, min_length=1)
    fail_on: list[FailOn] = Field(default=["regression"])
    look_back: int = Field(default=90, ge=5, le=1000)
    keep_blocks: int | None = Field(default=None, ge=1)

    @field_validator("jobs", mode="before")
    @classmethod
    def _paths_are_jobs(cls, value: Any) -> Any:  # noqa: ANN401 (YAML data)
        return [{"job": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value

    @field_validator("fail_on", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:  # noqa: ANN401 (YAML data)
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Entry:
    """One job of the plan.

    Args:
        path: its file.
        job: what it says; None where it cannot be read, with the reason in `problem`.
        targets: on which boards, in order.
        profile: how much to measure.
        split: "validation" or "all".
        problem: why it cannot run tonight, "" when it can.
    """

    path: Path
    job: Job | None
    targets: tuple[str, ...]
    profile: str
    split: str
    problem: str = ""

    @property
    def name(self) -> str:
        """The job's name; that of the file's folder where it cannot be read."""
        return self.job.name if self.job is not None else self.path.parent.name


@dataclass(frozen=True, slots=True)
class NightPlan:
    """A plan that can start.

    Args:
        name: of its nights and alarms in the store.
        path: the file.
        lab: the boards.
        entries: jobs in order.
        until: local time of day when everything must be over.
        budget_s: how long a night may last.
        out: folder of the nights.
        metrics: which series are followed; None: the usual ones (`harness.history.series.followed`).
        fail_on: what a night fails by, besides failed boards.
        look_back: how many nights the search for steps goes back.
        keep_blocks: raw blocks older than so many nights leave the database; None: never.
    """

    name: str
    path: Path
    lab: Lab
    entries: tuple[Entry, ...]
    until: time | None
    budget_s: float | None
    out: Path
    metrics: tuple[str, ...] | None
    fail_on: frozenset[str]
    look_back: int
    keep_blocks: int | None

    def deadline(self, now: datetime) -> datetime | None:
        """When a night that begins `now` (local, with its time zone) must be over; None: never."""
        ends = []
        if self.budget_s is not None:
            ends.append(now + timedelta(seconds=self.budget_s))
        if self.until is not None:
            today = now.replace(hour=self.until.hour, minute=self.until.minute, second=0, microsecond=0)
            # the wall clock of tomorrow, so that a night that changes to summer time ends when people come
            tomorrow = (today.replace(tzinfo=None) + timedelta(days=1)).astimezone()
            ends.append(today if today > now else tomorrow)
        return min(ends, default=None)


def load_night_plan(path: Path) -> NightPlan:
    """Read a plan and everything it names. A job file that cannot be read spoils its own entry, not the night.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
    document = read_yaml(path)
    file = validate(document, _PlanFile)
    base = path.resolve().parent
    lab = load_lab(base / file.lab)
    _check_targets(document, ("targets",), file.targets, lab)
    name = file.name or re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:32] or "nightly"
    if not _NAME.fullmatch(name):
        raise document.error(("name",), f"name '{name}': up to 32 of a-z, 0-9 and '-'")
    entries = tuple(_entry(document, index, one, file, lab, base) for index, one in enumerate(file.jobs))
    _check_metrics(document, file.metrics, entries)
    return NightPlan(
        name,
        path.resolve(),
        lab,
        entries,
        _time_of_day(document, file.until),
        _seconds(document, file.budget),
        (base / file.out).absolute(),
        None if file.metrics is None else tuple(file.metrics),
        frozenset(file.fail_on),
        file.look_back,
        file.keep_blocks,
    )


def _entry(document: Document, index: int, one: _Entry, file: _PlanFile, lab: Lab, base: Path) -> Entry:
    _check_targets(document, ("jobs", index, "targets"), one.targets, lab)
    profile = one.profile or file.profile
    try:
        find_profile(profile)
    except UserError as error:
        raise document.error(("jobs", index, "profile") if one.profile else ("profile",), str(error)) from None
    targets = tuple(target.name for target in lab.select(one.targets or file.targets))
    path = base / one.job
    try:
        return Entry(path, load_job(path), targets, profile, one.split)
    except UserError as error:
        return Entry(path, None, targets, profile, one.split, str(error))


def _check_targets(document: Document, where: tuple[str | int, ...], names: list[str] | None, lab: Lab) -> None:
    for index, name in enumerate(names or ()):
        if name not in lab.targets:
            raise document.error((*where, index), f"no target '{name}' in {lab.path}{one_of(name, lab.targets)}")


def _check_metrics(document: Document, names: list[str] | None, entries: Sequence[Entry]) -> None:
    """A series that no run has would be followed without a word."""
    if any(entry.job is None for entry in entries):
        return  # whose metrics are not known
    own = {spec.rpartition(":")[2] for entry in entries if entry.job is not None for spec in entry.job.metrics}
    for index, name in enumerate(names or ()):
        if name not in KNOWN and name.removesuffix("_delta") not in own:
            hint = one_of(name, [*own, *KNOWN])
            raise document.error(("metrics", index), f"metrics: '{name}' is no row of comparison.csv{hint}")


def _time_of_day(document: Document, text: str | None) -> time | None:
    if text is None:
        return None
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise document.error(("until",), f"until: '{text}' is no time of day; write \"06:00\"") from None


def _seconds(document: Document, budget: str | float | None) -> float | None:
    if budget is None:
        return None
    if isinstance(budget, str):
        match = _DURATION.fullmatch(budget.strip())
        if match is None:
            raise document.error(("budget",), f"budget: '{budget}' is no duration; write 6 h, 90 min or seconds")
        budget = float(match[1]) * _UNITS_S[match[2]]
    if budget <= 0:
        raise document.error(("budget",), "budget: nothing fits into no time; leave it out for no limit")
    return float(budget)
