"""`quantrig compare`: what differs between two runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json, StoreUrl
from harness.cli.skipped import say_skipped
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.history.compare import Comparison

#: Names of figures that are longer are folded.
_FIGURE = 36


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
    say_skipped(nights)
    if not found.rows:
        raise UserError(
            f"{runs[0].run_id} and {runs[1].run_id} have no figure in common: no target of that name finished in both"
        )
    if as_json:
        typer.echo(json.dumps(_compare_json(runs[0].run_id, runs[1].run_id, found), indent=2))
    else:
        _print_comparison(runs[0].run_id, runs[1].run_id, found, everything=everything)
    return ExitCode.GOOD


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
    # a board's name has a row of its own, beside the figure's there is no room; so it is never folded
    boards = [plain(row.target) for row in shown]
    figures = [plain(f"  {row.network} {row.metric}") for row in shown]
    widest = max((min(len(figure), _FIGURE) for figure in figures), default=0)
    table.add_column("target, figure", overflow="fold", width=max([widest, *map(len, boards)]))
    for name in ("old", "new", "change", "95 % interval"):
        table.add_column(name, justify="right")
    place = ""
    for row, name, figure in zip(shown, boards, figures, strict=True):
        if name != place:
            place = name
            table.add_row(Text(name, style="bold"))
        ends = "none" if row.interval is None else _ends(row.interval, row.unit, row.metric, relative=row.relative)
        cells = (
            figure, value_text(row.old, row.unit, row.metric),
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
