"""Commands about one network on this machine: calibrate, quantize, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.options import Json
from harness.errors import ExitCode, UserError

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

_ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
_METHODS = ("auto", "minmax", "histogram", "entropy", "percentile", "mse")


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
    as_json: Json = False,
) -> int:
    """Run the float network over samples and write the range of every tensor."""
    from harness.cli.model_data import feeds_with_bar, open_model_data
    from harness.quantize import Quantizer

    _choice("--environment", environment, _ENVIRONMENTS)
    _choice("--method", method, _METHODS)
    opened = open_model_data(model, data, job, samples)
    quantizer = Quantizer(model, environment=environment)
    with feeds_with_bar("calibrate", opened, quiet=as_json) as feeds:
        table = quantizer.calibrate(feeds, layers=layers, method=method)
    _write(out, table.to_csv(index=False))
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
    as_json: Json = False,
) -> int:
    """Make the int8 network of one environment."""
    from harness.cli.model_data import feeds_with_bar, open_model_data
    from harness.quantize import Quantizer

    _choice("--environment", environment, _ENVIRONMENTS)
    _choice("--method", method, _METHODS)
    opened = open_model_data(model, data, job, samples)
    quantizer = Quantizer(model, environment=environment)
    with feeds_with_bar("calibrate", opened, quiet=as_json) as feeds:
        quantizer.calibrate(feeds, layers="needed", method=method)
    result = quantizer.quantize(out, exclude=list(exclude or []), method=method)
    if as_json:
        listed = {
            "path": str(result.path), "digest": result.digest, "environment": result.environment,
            "method": result.method, "quantized_layers": result.quantized_layers,
            "kept_float": [{"layer": layer, "reason": reason} for layer, reason in result.kept_float],
            "notes": list(result.notes),
        }  # fmt: skip
        typer.echo(json.dumps(listed, indent=2))
        return ExitCode.GOOD
    typer.echo(f"wrote {out}: {result.quantized_layers} layers int8 by the rules of {environment}, {result.method}")
    for layer, reason in result.kept_float:
        typer.echo(f"  float: {layer}: {reason}")
    for note in result.notes:
        typer.echo(f"  note: {note}")
    return ExitCode.GOOD


def inspect(
    model: Annotated[Path, typer.Argument(help="Any ONNX network.", metavar="MODEL.onnx")], as_json: Json = False
) -> int:
    """Details and metrics of a network: what is quantized, layer sizes, operations, memory."""
    from rich.console import Console

    from harness.cli.inspection import inspection, render

    found = inspection(model)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        render(found, Console())
    return ExitCode.GOOD


def _choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value}: choose one of {', '.join(choices)}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); choose another -o"
        raise UserError(message) from error
