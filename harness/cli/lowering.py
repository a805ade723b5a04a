"""`quantrig lower`: a quantized network in the numbers of a board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json
from harness.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from harness.emulation import Lowered


def lower(
    model: Annotated[Path, typer.Argument(help="A quantized network (Q/DQ).", metavar="MODEL.int8.onnx")],
    arithmetic: Annotated[
        str,
        typer.Option("--arithmetic", help="Whose numbers: dpu, mathworks, host or gpu; fpga is dpu.", metavar="NAME"),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the plain network goes.", metavar="OUT.onnx")],
    int8_kernels: Annotated[
        bool,
        typer.Option(
            "--int8-kernels/--float-carrier",
            help="Convolutions on ONNX Runtime's integer kernels, or all in floats with each layer's integers by name.",
        ),
    ] = True,
    as_json: Json = False,
) -> int:
    """Write a quantized network as plain ONNX that computes what the board would, to the last bit."""
    from rich.console import Console

    from harness.emulation import lower as lower_network
    from harness.quantize.writing import check_target

    check_target(out, model)
    lowered = lower_network(model, arithmetic, int8_kernels=int8_kernels)
    lowered.save(out)
    if as_json:
        typer.echo(json.dumps(_document(lowered, out), indent=2))
    else:
        _render(lowered, out, Console())
    return ExitCode.GOOD


def _document(lowered: Lowered, out: Path) -> dict[str, Any]:
    return {
        "path": str(out),
        "arithmetic": lowered.arithmetic.name,
        "claim": lowered.arithmetic.claim,
        "disabled_optimizers": list(lowered.disabled_optimizers),
        "layers": [
            {
                "name": layer.name,
                "op_type": layer.op_type,
                "members": list(layer.members),
                "where": layer.where,
                "integers": layer.integers,
                "step": layer.step,
                "carrier": layer.carrier,
                "reason": layer.reason,
            }
            for layer in lowered.layers
        ],
    }


def _render(lowered: Lowered, out: Path, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("layer", "type", "where", "step", "sums in", box=None, pad_edge=False)
    for layer in lowered.layers:
        table.add_row(
            Text(layer.name, overflow="fold"),
            layer.op_type,
            layer.where,
            "" if layer.step is None else f"{layer.step:g}",
            layer.carrier or "",
        )
    console.print(table)
    for notice in lowered.notices:
        console.print(Text(notice))
    hardware = sum(layer.where == "HW" for layer in lowered.layers)
    console.print(
        Text(
            f"{out}: {hardware} of {len(lowered.layers)} layers in {lowered.arithmetic.name} arithmetic; "
            f"{lowered.arithmetic.claim}"
        )
    )
