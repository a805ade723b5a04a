"""Everything that is known of a network's layers, brought together: what they cost, their ranges, their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.quantize.dynamic_range import DynamicRange, Scheme
from harness.quantize.inspection import details
from harness.quantize.metrics_table import network_metrics

if TYPE_CHECKING:
    from harness.quantize.session import Quantizer


@dataclass(frozen=True)
class LayerView:
    """One layer, or one input of the network.

    Args:
        name, op_type: of it; an input's type is "Input".
        learnables: how many numbers.
        macs: multiply-accumulates for one sample; None where a dimension is unknown.
        memory_bytes: of the learnables, from their types.
        int8: it computes in int8; None without an int8 network.
        ranges: "Weights", "Bias", "Activations", … → dynamic range; only what is known.
        sqnr_db: of its result beside the float network's, everything before it included.
        local_sqnr_db: of this layer alone.
        gain_db: what the network gains when only this layer is float.
        gain_error_db: standard error of that.
        alone_db: SQNR of the network with only this layer int8.
    """

    name: str
    op_type: str
    learnables: int
    macs: int | None
    memory_bytes: int
    int8: bool | None
    ranges: Mapping[str, DynamicRange]
    sqnr_db: float | None = None
    local_sqnr_db: float | None = None
    gain_db: float | None = None
    gain_error_db: float | None = None
    alone_db: float | None = None


@dataclass(frozen=True)
class Overview:
    """A network, layer by layer.

    Args:
        model: the float network.
        quantized: the int8 network that errors are about; None without.
        environment: whose rules.
        scheme: how windows were chosen.
        samples: how many ranges rest on; 0 before a calibration.
        error_samples: how many layer errors rest on; 0 without.
        layers: in the network's order, its inputs first.
        facts: of the ranking (int8_db, samples, …); empty without one.
    """

    model: Path
    quantized: Path | None
    environment: str
    scheme: Scheme
    samples: int
    error_samples: int
    layers: tuple[LayerView, ...]
    facts: Mapping[str, Any]

    @property
    def widest(self) -> tuple[int, int]:
        """(highest, lowest) bit that any range or window reaches; (7, 0) where none is known."""
        ranges = [found for layer in self.layers for found in layer.ranges.values()]
        highest = [max(found.window[0], *found.counts) for found in ranges if found.counts]
        lowest = [min(found.window[1], *found.counts) for found in ranges if found.counts]
        return max(highest, default=7), min(lowest, default=0)


def overview(
    quantizer: Quantizer,
    scheme: Scheme = "MinMax",
    *,
    errors: pd.DataFrame | None = None,
    error_samples: int = 0,
    ranking: pd.DataFrame | None = None,
) -> Overview:
    """Bring together what a Quantizer knows of its layers.

    Args:
        quantizer: calibrated or not.
        scheme: how windows are chosen.
        errors: of `Quantizer.layer_errors`.
        error_samples: how many samples they rest on.
        ranking: of `Quantizer.sensitivity`.

    Raises:
        UserError: the calibration collected no histograms, or the network changed.
    """
    ranges: dict[str, dict[str, DynamicRange]] = {}
    for (layer, what), found in quantizer.histograms(scheme).items():
        ranges.setdefault(layer, {})[what] = found
    metrics = network_metrics(quantizer.model)
    assert isinstance(metrics, pd.DataFrame)  # one network, one table
    costs = {row["LayerName"]: row for row in metrics.to_dict("records")}
    wrong = {} if errors is None else {row["Layer"]: row for row in errors.to_dict("records")}
    ranked = {} if ranking is None else {row["Layer"]: row for row in ranking.to_dict("records")}
    made = quantizer.quantized
    int8 = None if made is None else set(details(made.path).QuantizedLayerNames)
    # Inputs come first; parts of layers that were written out, last.
    inputs = [name for name in ranges if name not in costs and set(ranges[name]) == {"Activations"}]
    seen = quantizer.input_names
    names = dict.fromkeys([*(n for n in inputs if n in seen), *costs, *ranges, *wrong])
    layers = []
    for name in names:
        cost: Mapping[Any, Any] = costs.get(name, {})
        error: Mapping[Any, Any] = wrong.get(name, {})
        rank: Mapping[Any, Any] = ranked.get(name, {})
        layers.append(
            LayerView(
                name=name,
                op_type=str(cost.get("LayerType") or error.get("Type") or ("Input" if name in seen else "")),
                learnables=_whole(cost.get("NumberOfLearnables")) or 0,
                macs=_whole(cost.get("NumberOfMACs", 0)),
                memory_bytes=_whole(cost.get("ParameterMemory")) or 0,
                int8=None if int8 is None else name in int8,
                ranges=ranges.get(name, {}),
                sqnr_db=_number(error.get("sqnr_db")),
                local_sqnr_db=_number(error.get("local_sqnr_db")),
                gain_db=_number(rank.get("gain_db")),
                gain_error_db=_number(rank.get("gain_error_db")),
                alone_db=_number(rank.get("alone_db")),
            )
        )
    return Overview(
        model=quantizer.model,
        quantized=None if made is None else made.path,
        environment=quantizer.environment,
        scheme=scheme,
        samples=0 if quantizer.calibration is None else quantizer.calibration.samples,
        error_samples=error_samples,
        layers=tuple(layers),
        facts={} if ranking is None else {str(name): value for name, value in ranking.attrs.items()},
    )


def _whole(value: Any) -> int | None:  # noqa: ANN401 (a cell of a table: a number, or one of pandas' kinds of nothing)
    return None if value is None or value is pd.NA else int(value)


def _number(value: Any) -> float | None:  # noqa: ANN401 (a cell of a table)
    return None if value is None or value is pd.NA or isnan(value) else float(value)
