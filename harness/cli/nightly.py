"""`quantrig nightly`: a plan of jobs, made for cron and systemd timers: it speaks when something changed."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, StoreUrl
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.history.tonight import Tonight


def nightly(
    plan: Annotated[Path, typer.Argument(help="Which jobs on which boards, until when.", metavar="PLAN.yaml")],
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with the last night, which was interrupted.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and by when it would end; touch no board.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what the night came to in any case.")] = False,
    as_json: Json = False,
    store: StoreUrl = None,
) -> int:
    """Run a plan of jobs, find what changed since the nights before, and publish one page.

    Silent where nothing is new. Exit codes: 3 a board failed, 1 a gate of a job failed or a step for the worse was
    found that is not the machine's (`fail_on` in the plan), 2 bad input, 0 else; what is inconclusive fails a night
    only with `fail_on`.
    """
    from harness.history.night import run_night
    from harness.history.plan import load_night_plan
    from harness.store import open_store

    read = load_night_plan(plan)
    if dry_run:
        if go_on:
            raise UserError("--dry-run shows a new night; leave --resume out")
        return _dry(read, as_json=as_json)
    opened = open_store(store)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            tonight = run_night(read, opened, go_on=go_on)
    finally:
        opened.close()
    if as_json:
        from harness.history.publish import night_json

        typer.echo(json.dumps(night_json(tonight), indent=2))
        return tonight.code
    _tell(tonight, verbose=verbose, undecided=verbose or "inconclusive" in read.fail_on)
    return tonight.code


def _tell(tonight: Tonight, *, verbose: bool, undecided: bool) -> None:
    """Only what is new or fails the night: cron sends a mail when there is any output."""
    from harness.history.gates import gate_line, gates_of
    from harness.history.page import outcome
    from harness.history.words import change_line, machine_line, suspect_line

    lines = []
    for entry in tonight.entries:
        if entry["outcome"] == "failed":
            lines.append(f"{entry['job']}: {entry['error']}")
        elif entry["outcome"] != "done":
            lines.append(f"{entry['job']}: not run, {entry['outcome']}")
        lines += [f"{entry['job']} on {why}" for why in _problems(entry["statuses"])]
    lines += [gate_line(one) for one in gates_of(tonight.entries) if undecided or one["outcome"] == "fail"]
    lines += [change_line(one) for one in tonight.new]
    if tonight.new:  # a shared cause is news on the night of its steps
        nights = {one.change.first.night for one in tonight.new}
        lines += [one.sentence for one in tonight.insight.shared if one.night in nights]
    lines += [machine_line(one) for one in tonight.insight.machine if one.point.night == tonight.night.night_id]
    suspected = [story for story in tonight.insight.stories if story.suspected is not None]
    lines += [suspect_line(story) for story in (suspected if verbose else tonight.departed)]
    if verbose:
        lines.append(outcome(tonight))
    for line in lines:
        typer.echo(line)
    if lines:
        typer.echo(f"the night's page: {tonight.folder / 'index.html'}")


def _problems(statuses: dict[str, str]) -> list[str]:
    return [why if why.startswith(f"{name}:") else f"{name}: {why}" for name, why in statuses.items()]


def _dry(plan: object, *, as_json: bool) -> int:
    from datetime import datetime

    from harness.history.plan import NightPlan

    assert isinstance(plan, NightPlan)
    ends = plan.deadline(datetime.now().astimezone())
    listed = [
        {
            "job": one.name, "path": str(one.path), "targets": list(one.targets), "profile": one.profile,
            "problem": one.problem or None,
        }
        for one in plan.entries
    ]  # fmt: skip
    if as_json:
        ends_text = None if ends is None else ends.isoformat(timespec="seconds")
        typer.echo(json.dumps({"plan": plan.name, "out": str(plan.out), "until": ends_text, "jobs": listed}, indent=2))
    else:
        over = "no deadline" if ends is None else f"over by {ends:%Y-%m-%d %H:%M %Z}"
        typer.echo(f"{plan.name}: {len(listed)} jobs, {over}, pages in {plan.out}")
        for one, entry in zip(listed, plan.entries, strict=True):
            what = entry.problem or f"{one['profile']}, on {', '.join(entry.targets)}"
            typer.echo(f"  {entry.name}: {what}")
    return ExitCode.BAD_INPUT if any(one.problem for one in plan.entries) else ExitCode.GOOD
