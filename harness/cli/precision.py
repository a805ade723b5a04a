"""Commands about precision layer by layer: `quantrig sensitivity`, and the targets of `quantrig quantize`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.network_options import (
    ENVIRONMENTS,
    METHODS,
    Count,
    Data,
    Environment,
    HeldBack,
    JobFile,
    JournalFile,
    Method,
    Model,
    Processes,
    choice,
    write,
)
from harness.cli.options import Json, Lab
from harness.errors import ExitCode

if TYPE_CHECKING:
    import pandas as pd

    from harness.cli.model_data import ModelData
    from harness.quantize import Quantizer
    from harness.quantize.sensitivity import Progress

#: Samples that tell an SQNR well enough.
SQNR_SAMPLES = 16
#: Layers that a terminal shows; -o and --json have all.
_SHOWN = 20
#: Width of the table beside the layer's name.
_OTHER_COLUMNS = 62

Board = Annotated[str | None, typer.Option("--target", help="A target of the lab.", metavar="NAME")]


def sensitivity(
    model: Model,
    environment: Environment,
    data: Data = None,
    job: JobFile = None,
    samples: Count = 100,
    held_back: HeldBack = None,
    method: Method = "auto",
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="This layer is float in any case.")] = None,
    processes: Processes = 1,
    journal: JournalFile = None,
    target: Board = None,
    lab: Lab = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The table.", metavar="table.csv")] = None,
    as_json: Json = False,
) -> int:
    """Rank the layers by what int8 costs in each; with --target on that board."""
    from harness.api import Quantizer
    from harness.cli.model_data import job_state

    choice("--environment", environment, ENVIRONMENTS)
    choice("--method", method, METHODS)
    sampled = divide(model, data, job, samples, held_back or SQNR_SAMPLES)
    quantizer = Quantizer(model, environment=environment, state=job_state(job))
    sampled.calibrate(quantizer, method, quiet=as_json)
    with layers_bar(quiet=as_json) as progress:
        table = quantizer.sensitivity(
            sampled.held,
            method=method,
            exclude=list(exclude or []),
            processes=processes,
            resume=journal,
            progress=progress,
            target=target,
            lab=lab,
        )
    if out is not None:
        write(out, table.to_csv(index=False))
    if as_json:
        layers = json.loads(table.to_json(orient="records"))
        typer.echo(json.dumps({**table.attrs, "target": target, "layers": layers}, indent=2))
    else:
        print_ranking(table, target)
        if out is not None:
            typer.echo(f"wrote {out}: {len(table)} layers")
    return ExitCode.GOOD


@dataclass(frozen=True)
class Sampled:
    """The samples of a command, divided.

    Args:
        calibration: those that ranges come from.
        held: those that networks are measured on: (inputs, labels), or inputs where there are no labels.
    """

    calibration: ModelData
    held: list[Any]

    def calibrate(self, quantizer: Quantizer, method: str, *, quiet: bool) -> None:
        """Calibrate with the first part; of all layers, since any of them may become float."""
        from harness.cli.model_data import feeds_with_bar

        with feeds_with_bar("calibrate", self.calibration, quiet=quiet) as feeds:
            quantizer.calibrate(feeds, layers="all", method=method)


def divide(model: Path, data: str | None, job: Path | None, samples: int, held_back: int | None) -> Sampled:
    """Open the samples of a command and hold some of them back, spread evenly.

    Args:
        held_back: how many; None: half of them. Never more than half; a single sample serves both ends.
    """
    from harness.cli.model_data import open_model_data, samples_of

    opened = open_model_data(model, data, job, samples)
    indices = opened.indices
    count = min(held_back or len(indices), len(indices) // 2)
    places = {(2 * i + 1) * len(indices) // (2 * count) for i in range(count)} or set(range(len(indices)))
    held = [index for place, index in enumerate(indices) if place in places]
    rest = tuple(index for place, index in enumerate(indices) if place not in places) or indices
    if opened.state:
        kept = replace(opened, indices=tuple(held))
        return Sampled(replace(opened, indices=rest), list(samples_of(kept)))
    batch = opened.data.read(held)
    inputs = dict(batch.inputs)
    return Sampled(replace(opened, indices=rest), [inputs if batch.labels is None else (inputs, batch.labels)])


@contextmanager
def layers_bar(*, quiet: bool) -> Iterator[Progress | None]:
    """A progress bar over layers on a terminal's stderr; it appears with the first finished one."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("layers"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[layer]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task: TaskID | None = None

        def progress(done: int, total: int, layer: str) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("layers", total=total, layer=layer)
            bar.update(task, completed=done, total=total, layer=layer)

        yield progress


def print_ranking(table: pd.DataFrame, target: str | None) -> None:
    """Print a ranking for a person: the worst layers.

    Args:
        table: of `Quantizer.sensitivity`.
        target: the board it was measured on; None: this machine.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    facts = table.attrs
    if table.empty:
        typer.echo("nothing is int8 by these rules: no layer to rank")
        return
    where = f"on {target}" if target else "on this machine"
    agreement = "" if facts["int8_agreement"] is None else f", top-1 agreement {facts['int8_agreement']:.3f}"
    typer.echo(
        f"all int8 ({facts['environment']}, {facts['method']}): {facts['int8_db']:.2f} dB{agreement} "
        f"({facts['samples']} samples, {where})"
    )
    labelled = bool(table["gain_points"].notna().any())
    typer.echo("gain: SQNR with only this layer float, less that of all int8; alone: SQNR with only this layer int8")
    shown = Table(box=None, pad_edge=False)
    # Exported names run to hundreds of characters; the whole ones are in -o and --json.
    console = Console()
    shown.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(16, console.width - _OTHER_COLUMNS))
    shown.add_column("type", no_wrap=True)
    for column in ("gain dB", "±", "alone dB", "agreement", *(["points"] if labelled else [])):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in table.head(_SHOWN).to_dict("records"):
        numbers = [("gain_db", "+.2f"), ("gain_error_db", ".2f"), ("alone_db", ".1f"), ("agreement_gain", "+.3f")]
        numbers += [("gain_points", "+.2f")] if labelled else []
        cells = ["-" if row[name] != row[name] else format(row[name], shape) for name, shape in numbers]
        shown.add_row(Text(str(row["Layer"])), str(row["Type"]), *cells)
    console.print(shown)
    if len(table) > _SHOWN:
        typer.echo(f"… and {len(table) - _SHOWN} more layers; -o table.csv or --json has all")
