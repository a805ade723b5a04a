"""Options that the commands about one network share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError

Model = Annotated[Path, typer.Argument(help="The float network.", metavar="MODEL.onnx")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Samples: a folder of images, an .npz or module:function.", metavar="DATA"),
]
JobFile = Annotated[
    Path | None, typer.Option("--job", help="Take data and preprocessing from this job file.", metavar="JOB.yaml")
]
Count = Annotated[int, typer.Option("--samples", min=1, help="How many samples to calibrate with.")]
Method = Annotated[str, typer.Option("--method", help="auto, minmax, histogram, entropy, percentile or mse.")]
Environment = Annotated[str, typer.Option("--environment", help="Whose rules: gpu, cpu, fpga or host.")]

Processes = Annotated[int, typer.Option("--processes", min=1, help="How many processes measure layers.")]
JournalFile = Annotated[
    Path | None,
    typer.Option("--journal", help="Keep finished layers here; the same command goes on from it.", metavar="FILE"),
]
HeldBack = Annotated[
    int | None,
    typer.Option("--held-back", min=1, help="How many of the samples measure instead of calibrating.", metavar="N"),
]

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
METHODS = ("auto", "minmax", "histogram", "entropy", "percentile", "mse")


def choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Raises:
        UserError: naming them.
    """
    if value not in choices:
        raise UserError(f"{option} {value}: choose one of {', '.join(choices)}")


def write(path: Path, text: str) -> None:
    """Write a file that -o names.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); choose another -o"
        raise UserError(message) from error
