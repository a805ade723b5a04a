"""`quantrig inspect`: what a network is and, with samples, what its layers hold and what int8 does to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.network_options import ENVIRONMENTS, Data, JobFile, JournalFile, Processes, choice
from harness.cli.options import Json
from harness.errors import ExitCode, UserError


def inspect(
    model: Annotated[
        Path | None, typer.Argument(help="Any ONNX network; with --session it may be left out.", metavar="MODEL.onnx")
    ] = None,
    data: Data = None,
    job: JobFile = None,
    session: Annotated[
        Path | None,
        typer.Option("--session", help="Ranges, int8 network and ranking of a saved session.", metavar="FILE"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many samples to calibrate with.")] = 100,
    environment: Annotated[
        str | None, typer.Option("--environment", help="Whose rules: gpu, cpu, fpga or host. Default: cpu.")
    ] = None,
    quantized: Annotated[
        Path | None,
        typer.Option("--quantized", help="Its int8 form: each layer's SQNR on these data.", metavar="INT8.onnx"),
    ] = None,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Rank the layers by what int8 costs.")] = False,
    journal: JournalFile = None,
    processes: Processes = 1,
    layer: Annotated[
        str | None, typer.Option("--layer", help="The histograms of this layer, bit by bit.", metavar="NAME")
    ] = None,
    scheme: Annotated[
        str, typer.Option("--scheme", help="How the 8-bit window is chosen: minmax or histogram.")
    ] = "minmax",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write one page: FILE.html, or a folder for layers.html.", metavar="FILE|DIR"),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write a picture of each layer into this folder.", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> int:
    """Details and metrics of a network; with samples also ranges, histograms and int8 errors of its layers."""
    from rich.console import Console

    from harness.cli.inspection import inspection, render
    from harness.cli.layers import Request, look

    choice("--scheme", scheme, ("minmax", "histogram"))
    if environment is not None:
        choice("--environment", environment, ENVIRONMENTS)
    if model is None and session is None:
        raise UserError("inspect what? give MODEL.onnx, or --session FILE")
    sources = any(given is not None for given in (data, job, session))
    if not sources and (quantized is not None or sensitivity):
        raise UserError(
            "--quantized and --sensitivity need samples; give --data DATA, --job JOB.yaml or --session FILE"
        )
    if (journal is not None or processes > 1) and not sensitivity:
        raise UserError("--journal and --processes serve --sensitivity; add it")
    wants_layers = sources or any(given is not None for given in (layer, out, svg))
    if not wants_layers:
        assert model is not None  # checked above
        found = inspection(model)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            render(found, Console())
        return ExitCode.GOOD
    look(
        Request(
            model=model,
            data=data,
            job=job,
            session=session,
            samples=samples,
            environment=environment,
            quantized=quantized,
            sensitivity=sensitivity,
            journal=journal,
            processes=processes,
            layer=layer,
            scheme="MinMax" if scheme == "minmax" else "Histogram",
            out=out,
            svg=svg,
            as_json=as_json,
        )
    )
    return ExitCode.GOOD
