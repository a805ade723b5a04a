"""`quantrig history` and `quantrig history ack`: what past runs say together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json, StoreUrl
from harness.cli.skipped import say_skipped
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.history.analysis import Insight
    from harness.history.changes import Story
    from harness.store.nights import Alarm, Nights

history_app = typer.Typer(
    help="Series over the nights with their steps and alarms; `ack` marks alarms as looked at.",
    invoke_without_command=True,
)


@history_app.callback()
def history(
    context: typer.Context,
    plan: Annotated[
        str | None, typer.Option("--plan", help="Only this plan's nights, by its own `metrics`.", metavar="NAME")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="Only this job's series.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Only this target's series.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Only this metric, followed or not.")] = None,
    every_run: Annotated[bool, typer.Option("--all", help="Every run in the store, not only those of nights.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=2, help="How many nights back.")] = 90,
    as_json: Json = False,
    store: StoreUrl = None,
) -> int:
    """Series with their last values, their steps, and the alarms that nobody has acknowledged."""
    if context.invoked_subcommand is not None:
        return ExitCode.GOOD
    if every_run and plan is not None:
        raise UserError("--all takes every run, --plan those of one plan's nights; leave one of them out")
    from harness.history.analysis import look, series_of, series_of_plans
    from harness.store import open_store
    from harness.store.nights import Nights

    opened = open_store(store)
    try:
        nights = Nights(opened)
        found = _nights(nights, plan, limit, every_run=every_run)
        if metric is None and found is not None:
            followed = series_of_plans(nights, found)
        else:
            followed = series_of(nights, found, None if metric is None else (metric,))
        series = [one for one in followed if job in {None, one.key.job} and target in {None, one.key.target}]
        insight = look(series, nights)
        keys = {one.key for one in series}
        alarms = [one for one in nights.alarms(plan) if _key(one) in keys]
    finally:
        opened.close()
    say_skipped(nights)
    if as_json:
        typer.echo(json.dumps(_history_json(insight, alarms), indent=2))
    else:
        _print(insight, alarms)
    return ExitCode.GOOD


@history_app.command("ack")
def acknowledge(
    numbers: Annotated[list[int], typer.Argument(help="Numbers of alarms, as `quantrig history` lists them.")],
    note: Annotated[str, typer.Option("--note", help="Why it is in order; kept with the alarm.")] = "",
    as_json: Json = False,
    store: StoreUrl = None,
) -> int:
    """Mark alarms as looked at: they leave the list of what is open."""
    from datetime import UTC, datetime

    from harness.store import open_store
    from harness.store.nights import Nights

    opened = open_store(store)
    try:
        nights = Nights(opened)
        known = {one.number: one for one in nights.alarms()}
        for number in numbers:  # all or none
            if number not in known:
                raise UserError(f"no alarm has the number {number}; `quantrig history` lists them")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for number in numbers:
            kept = known[number].details | {"acknowledged": when, "note": note}
            nights.update_alarm(number, state="acknowledged", details=kept)
    finally:
        opened.close()
    if as_json:
        typer.echo(json.dumps({"acknowledged": numbers}))
    else:
        typer.echo(f"acknowledged: {', '.join(map(str, numbers))}")
    return ExitCode.GOOD


def _nights(nights: Nights, plan: str | None, limit: int, *, every_run: bool) -> list[Any] | None:
    if every_run:
        return None
    found = nights.nights(plan, limit)
    if not found and plan is not None:
        names = sorted({one.plan for one in nights.nights()})
        raise UserError(f"no night of a plan '{plan}'; known: {', '.join(names) or 'none yet'}")
    return found or None  # a store that never saw a night: its runs serve


def _key(alarm: Alarm) -> object:
    from harness.history.series import Key

    return Key(alarm.job, alarm.target, alarm.network, alarm.metric)


def _history_json(insight: Insight, alarms: list[Alarm]) -> dict[str, Any]:
    return {
        "series": [_story_json(story) for story in insight.stories],
        "alarms": [
            {
                "alarm": one.number, "plan": one.plan, "state": one.state, "job": one.job, "target": one.target,
                "network": one.network, "metric": one.metric, "first_run_id": one.first_run_id, "raised": one.raised,
                **one.details,
            }
            for one in alarms
        ],
        "shared": [{"night": one.night, "sentence": one.sentence} for one in insight.shared],
    }  # fmt: skip


def _story_json(story: Story) -> dict[str, Any]:
    series = story.series
    return {
        "job": series.key.job, "target": series.key.target, "network": series.key.network,
        "metric": series.key.metric, "unit": series.unit, "source": series.source.value,
        "points": [
            {"night": one.night, "run_id": one.run_id, "started": one.started, "value": one.value, "ci_low": one.low,
             "ci_high": one.high} for one in series.points
        ],
        "levels": [
            {"first_run_id": series.points[one.start].run_id, "nights": one.stop - one.start,
             "value": series.back(one.value)} for one in story.found.levels
        ],
        "noise": story.found.noise.tau,
        "suspected": story.suspected,
        "suspected_how": None if story.sure is None else story.sure.how,
    }  # fmt: skip


def _print(insight: Insight, alarms: list[Alarm]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.history.chart import change_text, size_text
    from harness.report.text import plain, value_text

    if not insight.stories:
        typer.echo("no series yet: `quantrig nightly PLAN.yaml` makes them, night by night")
        return
    table = Table(box=None, pad_edge=False)
    # a width, not a least one: where room is short it is the step that is folded, and never the name of a board
    figures = [plain(f"  {one.series.key.network} {one.series.key.metric}") for one in insight.stories]
    places = [plain(f"{one.series.key.job} / {one.series.key.target}") for one in insight.stories]
    width = max(min(max(map(len, figures)), 42), *map(len, places))
    table.add_column("job / target, figure", overflow="fold", width=width)
    for name in ("nights", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last step", overflow="fold")
    place = ""
    for story, figure, here in zip(insight.stories, figures, places, strict=True):
        series = story.series
        if here != place:  # a row of its own: beside the figure's name there is no room for it
            place = here
            table.add_row(Text(here, style="bold"))
        last = series.points[-1]
        step = story.changes[-1] if story.changes else None
        words = "" if step is None else f"{change_text(step)} since {step.first.started[:10]}"
        if story.suspected is not None:
            size = size_text(story.suspected, series.unit, series.key.metric, relative=series.logarithmic)
            words = f"{words}; suspected: {size} on the last night alone".lstrip("; ")
        cells = (
            figure, str(len(series.points)), value_text(last.value, series.unit, series.key.metric), words,
        )  # fmt: skip
        table.add_row(*(Text(plain(cell)) for cell in cells))
    Console().print(table)
    for one in (alarm for alarm in alarms if alarm.state in {"new", "seen"}):
        kept = one.details
        worse = "worse" if kept.get("worse") else "better"
        change = _kept_change(kept, one.metric)
        typer.echo(
            plain(
                f"alarm {one.number}: {one.job} / {one.target} / {one.network} {one.metric} {change} ({worse}) since "
                f"{str(kept.get('started', ''))[:10]}; {kept.get('attribution', '')}"
            )
        )


def _kept_change(kept: dict[str, Any], metric: str) -> str:
    from harness.history.chart import size_text

    return size_text(kept["change"], kept["unit"], metric, relative=kept["relative"])
