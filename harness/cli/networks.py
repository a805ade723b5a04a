"""Commands about one network on this machine: calibrate, quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

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
from harness.cli.precision import SQNR_SAMPLES, divide, layers_bar
from harness.errors import ExitCode, UserError


def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="The table of ranges.", metavar="ranges.csv")],
    data: Data = None,
    job: JobFile = None,
    samples: Count = 100,
    method: Annotated[
        str, typer.Option("--method", help="As for quantize; the table holds observed minimum and maximum with each.")
    ] = "minmax",
    environment: Environment = "cpu",
    layers: Annotated[
        Literal["all", "needed"], typer.Option("--layers", help="All activations, or those a quantizer needs.")
    ] = "all",
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="How many share the work; the ranges are the same to the bit.")
    ] = 1,
    as_json: Json = False,
) -> int:
    """Run the float network over samples and write the range of every tensor."""
    from harness.cli.model_data import feeds_with_bar, job_state, open_model_data
    from harness.quantize import Quantizer

    choice("--environment", environment, ENVIRONMENTS)
    choice("--method", method, METHODS)
    opened = open_model_data(model, data, job, samples)
    quantizer = Quantizer(model, environment=environment, state=job_state(job))
    with feeds_with_bar("calibrate", opened, quiet=as_json) as feeds:
        table = quantizer.calibrate(feeds, layers=layers, method=method, processes=processes)
    write(out, table.to_csv(index=False))
    if as_json:
        typer.echo(table.to_json(orient="records", indent=2))
    else:
        typer.echo(f"wrote {out}: {len(table)} rows from {opened.count} samples")
    return ExitCode.GOOD


def quantize(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="The int8 network.", metavar="OUT.onnx")],
    environment: Environment,
    data: Data = None,
    job: JobFile = None,
    samples: Count = 100,
    method: Method = "auto",
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Leave this layer float.")] = None,
    recover: Annotated[
        str,
        typer.Option(
            "--recover",
            help="Steps that may win accuracy back: auto, all, none, or names with commas.",
            metavar="STEPS",
        ),
    ] = "auto",
    sqnr_target: Annotated[
        float | None, typer.Option("--sqnr-target", help="Leave layers float until this SQNR is met.", metavar="DB")
    ] = None,
    agreement_target: Annotated[
        float | None, typer.Option("--agreement-target", help="The same for top-1 agreement with float, 0 … 1.")
    ] = None,
    accuracy_target: Annotated[
        float | None,
        typer.Option("--accuracy-target", help="The same for top-1 accuracy: at most so many points lost."),
    ] = None,
    held_back: HeldBack = None,
    processes: Processes = 1,
    journal: JournalFile = None,
    target: Annotated[
        str | None, typer.Option("--target", help="A board whose times decide between layers of equal gain.")
    ] = None,
    lab: Lab = None,
    as_json: Json = False,
) -> int:
    """Make the int8 network of one environment; with a target figure, the one with the fewest layers in float."""
    from harness.api import Quantizer
    from harness.cli.model_data import feeds_with_bar, job_state, open_model_data
    from harness.quantize.rulebooks.rules import STEPS

    choice("--environment", environment, ENVIRONMENTS)
    choice("--method", method, METHODS)
    steps: tuple[str, ...] | None = None if recover == "auto" else STEPS
    if recover not in {"auto", "all"}:
        steps = tuple(name.strip() for name in recover.split(",") if name != "none")
    for step in steps or ():
        choice("--recover", step, STEPS)
    quantizer = Quantizer(model, environment=environment, state=job_state(job))
    targets = (sqnr_target, agreement_target, accuracy_target)
    if targets == (None, None, None):
        if (held_back, journal, target) != (None, None, None):
            raise UserError(
                "--held-back, --journal and --target serve a target figure; give --sqnr-target DB or another"
            )
        opened = open_model_data(model, data, job, samples)
        with feeds_with_bar("calibrate", opened, quiet=as_json) as feeds:
            quantizer.calibrate(feeds, layers="needed", method=method)
        result = quantizer.quantize(out, exclude=list(exclude or []), method=method, recover=steps)
    else:
        # A share or a count of labels needs more samples than an SQNR.
        sampled = divide(model, data, job, samples, held_back or (SQNR_SAMPLES if sqnr_target is not None else None))
        sampled.calibrate(quantizer, method, quiet=as_json)
        with layers_bar(quiet=as_json) as progress:
            result = quantizer.quantize(
                out,
                exclude=list(exclude or []),
                method=method,
                recover=steps,
                held_back=sampled.held,
                sqnr_target=sqnr_target,
                agreement_target=agreement_target,
                accuracy_target=accuracy_target,
                processes=processes,
                resume=journal,
                progress=progress,
                target=target,
                lab=lab,
            )
    mixed = quantizer.mixed
    code = ExitCode.GOOD if mixed is None or mixed.met else ExitCode.GATE_FAILED
    if as_json:
        listed = {
            "path": str(result.path), "digest": result.digest, "environment": result.environment,
            "method": result.method, "quantized_layers": result.quantized_layers,
            "kept_float": [{"layer": layer, "reason": reason} for layer, reason in result.kept_float],
            "notes": list(result.notes),
        }  # fmt: skip
        if mixed is not None:
            listed["mixed_precision"] = {
                "target": str(mixed.goal.kind), "asked": mixed.goal.value, "achieved": mixed.achieved, "met": mixed.met,
                "samples": mixed.samples, "float_layers": list(mixed.float_layers),
                "latency_ms": dict(mixed.latency_ms), "networks_tried": len(mixed.path),
            }  # fmt: skip
        typer.echo(json.dumps(listed, indent=2))
        return code
    typer.echo(f"wrote {out}: {result.quantized_layers} layers int8 by the rules of {environment}, {result.method}")
    for layer, reason in result.kept_float:
        typer.echo(f"  float: {layer}: {reason}")
    for note in result.notes:
        typer.echo(f"  note: {note}")
    return code
