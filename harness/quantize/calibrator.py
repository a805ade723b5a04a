"""Calibration: one pass of the optimized float network over a stream of data, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.external import scratch
from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.finite import non_finite_constant
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.observe import ChannelSums, TensorStats
from harness.quantize.placement import Layers, make_plan, tensors_to_observe
from harness.quantize.preparation import Prepared, prepare_model
from harness.quantize.rulebooks import rule_book
from harness.quantize.runtime import open_session, run_session, with_outputs
from harness.quantize.spread import Spread, worth_keeping
from harness.quantize.tables import TABLE_COLUMNS, calibration_rows


@dataclass(frozen=True)
class Calibration:
    """What a pass over the data showed; valid for one network and one environment's tensors.

    Args:
        digest: sha256 of the float network's file.
        environment: gpu, cpu, fpga or host.
        layers: "needed" or "all".
        samples: how many samples were seen.
        tensors: name → statistics.
        means: input of a weighted layer → mean per channel.
        kept: a few single-pass inputs, for scoring.
        rows: the calibration table.
    """

    digest: str
    environment: str
    layers: Layers
    samples: int
    tensors: Mapping[str, TensorStats]
    means: Mapping[str, NDArray[np.float64]]
    kept: tuple[Mapping[str, NDArray[Any]], ...] = field(default=(), repr=False)
    rows: tuple[tuple[str, str, str, float, float], ...] = field(default=(), repr=False)

    @property
    def has_histograms(self) -> bool:
        """Whether methods other than minmax can be used."""
        return all(stats.histogram is not None for stats in self.tensors.values())

    def table(self) -> pd.DataFrame:
        """The ranges, one row per learnable or activation, in the five published columns."""
        return pd.DataFrame(list(self.rows), columns=list(TABLE_COLUMNS))


@scratch()
def calibrate(
    model: Path,
    batches: Iterable[Batch],
    *,
    layers: Layers = "needed",
    environment: str = "cpu",
    histograms: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Observe the ranges of a float network's tensors.

    Args:
        model: float ONNX network.
        batches: stream of `{input name: array[N, …]}`; N may vary; consumed once, never held.
        layers: "needed": the tensors that the environment quantizes; "all": the activations of all layers.
        environment: whose rule book says what is needed.
        histograms: collect distributions too; every method but minmax needs them.
        progress: called with the number of samples seen so far.

    Raises:
        UserError: the network or the data are unusable, or an activation is NaN or infinite (named by layer).
    """
    model = Path(model)
    prepared = prepare_model(read_model(model), str(model))
    return calibrate_prepared(
        prepared,
        sha256_of(model),
        str(model),
        batches,
        layers=layers,
        environment=environment,
        histograms=histograms,
        progress=progress,
    )


def calibrate_prepared(
    prepared: Prepared,
    digest: str,
    what: str,
    batches: Iterable[Batch],
    *,
    layers: Layers,
    environment: str,
    histograms: bool,
    progress: Callable[[int], None] | None,
) -> Calibration:
    """`calibrate` on a network that is in memory already."""
    if layers not in {"needed", "all"}:
        msg = f"layers: {layers!r} is neither 'needed' nor 'all'"
        raise UserError(msg)
    graph = Graph(prepared.model)
    specs = input_specs(graph)
    plan = make_plan(graph, rule_book(environment))
    wanted = tensors_to_observe(graph, plan, layers)
    fed = [name for name in wanted if name in graph.inputs]
    inner = [name for name in wanted if name not in graph.inputs]
    # Exposing more than the needed tensors would stop the runtime from fusing what it can.
    shown = with_outputs(prepared.model, inner, only=True) if inner else prepared.model
    session = open_session(shown, what)
    stats = {name: TensorStats.empty(histograms=histograms) for name in wanted}
    sums = {name: ChannelSums(axis) for name, axis in plan.mean_axis.items()}
    kept: Spread[Mapping[str, NDArray[Any]]] | None = None
    samples = 0
    free = {spec.name: spec.batch is None for spec in specs}
    for inputs, count in passes(batches, specs, what):
        values = {name: inputs[name] for name in fed}
        if inner or not kept:  # with nothing to see inside, one pass still shows whether the network runs
            values |= zip(inner, run_session(session, inputs, what, inner or None), strict=bool(inner))
        for name, value in values.items():
            seen = stats[name].seeing(value)
            if not (np.isfinite(seen.low) and np.isfinite(seen.high)) and seen.count:
                _complain(graph, name, value, samples, what)
            stats[name] = seen
            if name in sums:
                sums[name].add(value)
        kept = Spread(worth_keeping(inputs, count)) if kept is None else kept
        kept.offer(lambda: {name: _first(value, free[name], count) for name, value in inputs.items()})  # noqa: B023
        samples += count
        if progress is not None:
            progress(samples)
    means = {name: mean for name, total in sums.items() if (mean := total.mean()) is not None}
    rows = calibration_rows(prepared, graph, plan, stats, layers)
    return Calibration(digest, environment, layers, samples, stats, means, kept.picked() if kept else (), tuple(rows))


def _first(value: NDArray[Any], free: bool, count: int) -> NDArray[Any]:
    """A copy of one sample, or of the whole pass where the network wants a fixed number."""
    return np.array(value[:1] if free and value.ndim and value.shape[0] == count else value)


def _complain(graph: Graph, name: str, value: NDArray[Any], samples: int, what: str) -> None:
    kind = "NaN" if np.isnan(value).any() else "infinity"
    where, remedy = f"input {name!r}", "clean the data"
    if name in graph.producer:
        maker = graph.producer[name]
        constant = non_finite_constant(graph, name)
        where, remedy = f"layer {maker.name!r}", "check the network"
        if constant is not None:
            remedy = f"initializer {constant!r} is not finite: {remedy}"
    msg = f"{what}: {where} holds {kind} at sample {samples + 1} or soon after; {remedy}"
    raise UserError(msg)
