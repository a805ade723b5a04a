"""`quantrig inspect`: what a network is, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.data.network_files import data_files
from harness.quantize import details, learnable_memory_bytes, network_metrics
from harness.runs.networks import digest_of

#: A terminal shows the first layers and says how many more there are; --json has all.
_SHOWN = 40


def inspection(path: Path) -> dict[str, Any]:
    """Everything `inspect` knows, as plain JSON.

    Raises:
        UserError: not a readable network.
    """
    found = details(path)
    metrics = network_metrics(path)
    assert not isinstance(metrics, tuple)  # one network, one table
    return {
        "path": str(path),
        "sha256": digest_of(path),
        "size_bytes": sum(file.stat().st_size for file in {path, *data_files(path)}),
        "IsQuantized": found.IsQuantized,
        "TargetLibrary": found.TargetLibrary,
        "QuantizedLayerNames": list(found.QuantizedLayerNames),
        "QuantizedLearnables": json.loads(found.QuantizedLearnables.to_json(orient="records")),
        "LearnableParameterMemory": learnable_memory_bytes(path),
        "layers": json.loads(metrics.to_json(orient="records")),
    }


def render(found: dict[str, Any], console: Console) -> None:
    """Print it for a person."""
    layers = found["layers"]
    macs = sum(layer["NumberOfMACs"] or 0 for layer in layers)
    state = f"int8 for {found['TargetLibrary']}" if found["IsQuantized"] else "float"
    console.print(Text(f"{found['path']}: {state}, {len(layers)} layers, {macs / 1e6:,.1f} M multiply-accumulates"))
    console.print(
        Text(
            f"learnables {found['LearnableParameterMemory']:,} bytes (counted from dtypes), "
            f"file {found['size_bytes']:,} bytes, sha256 {found['sha256'][:16]}…"
        )
    )
    if found["IsQuantized"]:
        names = len(found["QuantizedLayerNames"])
        console.print(Text(f"{names} layers int8, {len(found['QuantizedLearnables'])} learnables int8"))
    quantized = set(found["QuantizedLayerNames"])
    table = Table("layer", "type", "int8", box=None, pad_edge=False)
    for column in ("learnables", "MACs", "bytes"):
        table.add_column(column, justify="right")
    for layer in layers[:_SHOWN]:
        table.add_row(
            Text(layer["LayerName"], overflow="fold"),
            layer["LayerType"],
            "yes" if layer["LayerName"] in quantized else "",
            _count(layer["NumberOfLearnables"]),
            _count(layer["NumberOfMACs"]),
            _count(layer["ParameterMemory"]),
        )
    console.print(table)
    if len(layers) > _SHOWN:
        console.print(Text(f"… and {len(layers) - _SHOWN} more layers; --json lists all"))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}" if value else ""
