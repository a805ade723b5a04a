"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Lab = Annotated[
    Path | None,
    typer.Option("--lab", help="The lab file. Default: ./targets.yaml, then beside the job.", metavar="FILE"),
]
Targets = Annotated[str | None, typer.Option("--targets", help="Only these, separated by commas.", metavar="A,B")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run. Default: reports/RUN_ID.", metavar="DIR")]
ProfileName = Annotated[str, typer.Option("--profile", help="How much to measure: quick, standard or release.")]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", help="Time each target for at most so long; says what precision it bought.", metavar="SECONDS"
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="Results database: a file or an SQLAlchemy URL. Default: $QUANTRIG_STORE."),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Stream compile logs to the terminal too; a log file has them anyway.")
]
Brief = Annotated[
    bool, typer.Option("--brief", help="Keep compile logs out of the terminal; a log file has them anyway.")
]


def names(targets: str | None) -> list[str] | None:
    """`A,B` → ["A", "B"]; None means all."""
    if targets is None:
        return None
    return [name.strip() for name in targets.split(",") if name.strip()]
