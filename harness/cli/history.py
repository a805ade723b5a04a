"""`quantrig history`, `quantrig history ack` and `quantrig compare`: what past runs say together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json, StoreUrl
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.history.analysis import Insight
    from harness.history.changes import Story
    from harness.history.compare import Comparison
    from harness.store.nights import Alarm, Nights

#: So many skipped records are named.
_NAMED = 3

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
    _say_skipped(nights)
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


def compare(
    old: Annotated[str, typer.Argument(help="The run to compare with; a beginning of its id is enough.")],
    new: Annotated[str, typer.Argument(help="The other run.")],
    everything: Annotated[bool, typer.Option("--all", help="Also the figures that do not differ.")] = False,
    as_json: Json = False,
    store: StoreUrl = None,
) -> int:
    """What differs between two runs, with intervals, and what differs in what they depended on."""
    from harness.history.compare import compare_runs
    from harness.store import open_store
    from harness.store.nights import Nights

    opened = open_store(store)
    try:
        runs = [opened.run(one) for one in (old, new)]
        nights = Nights(opened)
        found = compare_runs(nights, runs[0].run_id, runs[1].run_id)
    finally:
        opened.close()
    _say_skipped(nights)
    if not found.rows:
        raise UserError(
            f"{runs[0].run_id} and {runs[1].run_id} have no figure in common: no target of that name finished in both"
        )
    if as_json:
        typer.echo(json.dumps(_compare_json(runs[0].run_id, runs[1].run_id, found), indent=2))
    else:
        _print_comparison(runs[0].run_id, runs[1].run_id, found, everything=everything)
    return ExitCode.GOOD


def _say_skipped(nights: Nights) -> None:
    """One line where a record could not be read: the run's figures are there, what they depended on is not."""
    skipped = nights.unreadable
    if skipped:
        from harness.report.text import plain

        few = ", ".join(f"run {run} on {target}" for run, target in skipped[:_NAMED])
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        what = "1 record was" if len(skipped) == 1 else f"{len(skipped)} records were"
        remedy = "another version of quantrig may read what these figures depended on"
        typer.echo(plain(f"{what} skipped, which this version cannot read: {few}{more}; {remedy}"), err=True)


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
    # a width, not a least one: where room is short it is the step that is folded
    figures = [plain(f"  {one.series.key.network} {one.series.key.metric}") for one in insight.stories]
    table.add_column("job / target, figure", overflow="fold", width=min(max(map(len, figures)), 42))
    for name in ("nights", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last step", overflow="fold")
    place = ""
    for story, figure in zip(insight.stories, figures, strict=True):
        series = story.series
        here = plain(f"{series.key.job} / {series.key.target}")
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


def _compare_json(old: str, new: str, found: Comparison) -> dict[str, Any]:
    return {
        "old": old,
        "new": new,
        "figures": [
            {
                "target": row.target, "network": row.network, "metric": row.metric, "unit": row.unit, "old": row.old,
                "new": row.new, "relative": row.relative, "change": row.change,
                "ci_low": row.interval[0] if row.interval else None,
                "ci_high": row.interval[1] if row.interval else None,
                "differs": row.differs, "note": row.note,
            }
            for row in found.rows
        ],
        "surroundings": {
            name: [{"cause": one.cause.value, "field": one.name, "old": one.old, "new": one.new} for one in what]
            for name, what in found.surroundings.items()
        },
        "only_old": list(found.only_old),
        "only_new": list(found.only_new),
    }  # fmt: skip


def _print_comparison(old: str, new: str, found: Comparison, *, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.history.chart import size_text
    from harness.report.text import plain, value_text

    shown = [row for row in found.rows if everything or row.differs]
    typer.echo(f"{old} → {new}: {sum(row.differs for row in found.rows)} of {len(found.rows)} figures differ")
    if any(row.interval is None for row in found.rows) and not everything:
        typer.echo("readings without an interval are compared with --all only")
    table = Table(box=None, pad_edge=False)
    table.add_column("target", overflow="fold")
    table.add_column("figure", no_wrap=True)
    for name in ("old", "new", "change", "95 % interval"):
        table.add_column(name, justify="right")
    for row in shown:
        ends = "none" if row.interval is None else _ends(row.interval, row.unit, row.metric, relative=row.relative)
        cells = (
            row.target, f"{row.network} {row.metric}", value_text(row.old, row.unit, row.metric),
            value_text(row.new, row.unit, row.metric),
            size_text(row.change, row.unit, row.metric, relative=row.relative), ends,
        )  # fmt: skip
        table.add_row(*(Text(plain(cell)) for cell in cells))
    if shown:
        Console().print(table)
        typer.echo(
            "intervals are those of the two runs; what a board does otherwise from night to night is not in them"
        )
    for name, what in found.surroundings.items():
        listed = "; ".join(f"{one.cause.value}: {one}" for one in what) or "nothing that is recorded differs"
        typer.echo(plain(f"{name}: {listed}"))
    for which, names in (("first", found.only_old), ("second", found.only_new)):
        if names:
            typer.echo(f"only in the {which} run: {', '.join(names)}")


def _ends(interval: tuple[float, float], unit: str, metric: str, *, relative: bool) -> str:
    from harness.history.chart import size_text

    low, high = (size_text(end, unit, metric, relative=relative) for end in interval)
    return f"[{low}, {high}]"
