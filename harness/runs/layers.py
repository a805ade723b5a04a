"""Where the error of a run's int8 network arises: the SQNR of each layer, for the report's plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import UserError
from harness.quantize import layer_errors
from harness.record.networks import LayerSqnr
from harness.runs.samples import Array

#: Each costs one pass of both networks with every tensor kept; more would move a layer's figure by tenths of a dB.
LAYER_SAMPLES = 4


def layer_sqnr(model: Path, quantized: Path, feeds: Iterable[Mapping[str, Array]]) -> tuple[LayerSqnr, ...]:
    """Each layer's SQNR, everything before it included, in the network's order.

    Args:
        model: the float network.
        quantized: its int8 form.
        feeds: a few samples as the network takes them.

    Returns:
        empty where the two share no tensor's name, as with an int8 network from elsewhere: a plot less, no error.
    """
    try:
        found = layer_errors(model, quantized, feeds, local=False)
    except UserError:
        return ()
    rows = zip(found["Layer"], found["Type"], found["sqnr_db"], strict=True)
    return tuple(LayerSqnr(str(layer), str(kind), _finite(float(sqnr_db))) for layer, kind, sqnr_db in rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
