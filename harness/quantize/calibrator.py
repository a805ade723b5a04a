"""Calibration: one pass of the optimized float network over a stream of data, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.external import scratch
from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.placement import Layers
from harness.quantize.preparation import Prepared, prepare_model
from harness.quantize.reservoir import Reservoir
from harness.quantize.shards import Shards
from harness.quantize.watch import Watch


@scratch()
def calibrate(
    model: Path,
    batches: Iterable[Batch],
    *,
    layers: Layers = "needed",
    environment: str = "cpu",
    histograms: bool = True,
    progress: Callable[[int], None] | None = None,
    processes: int = 1,
) -> Calibration:
    """Observe the ranges of a float network's tensors.

    Args:
        model: float ONNX network.
        batches: stream of `{input name: array[N, …]}`; N may vary; consumed once, never held.
        layers: "needed": the tensors that the environment quantizes; "all": the activations of all layers.
        environment: whose rule book says what is needed.
        histograms: collect distributions too; every method but minmax needs them.
        progress: called with the number of samples seen so far.
        processes: how many share the work, each with the network in its memory and one thread. The result is the
            same to the bit as that of one process with one thread.

    Raises:
        UserError: the network or the data are unusable, an activation is NaN or infinite (named by layer), or a
            process died.
    """
    model = Path(model)
    prepared = prepare_model(read_model(model), str(model))
    digest = sha256_of(model)
    if processes == 1:
        return calibrate_prepared(
            prepared,
            digest,
            str(model),
            batches,
            layers=layers,
            environment=environment,
            histograms=histograms,
            progress=progress,
        )
    if processes < 1:
        msg = f"processes: {processes} is not a number of processes; give 1 or more"
        raise UserError(msg)
    with Shards(
        model, digest, layers=layers, environment=environment, histograms=histograms, processes=processes
    ) as shards:
        return _stream(prepared, str(model), batches, shards.see, shards.calibration, progress)


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
    watch = Watch(prepared, what, layers=layers, environment=environment, histograms=histograms)
    return _stream(prepared, what, batches, watch.see, lambda samples: watch.calibration(digest, samples), progress)


def _stream(
    prepared: Prepared,
    what: str,
    batches: Iterable[Batch],
    see: Callable[[Batch, int], None],
    calibration: Callable[[int], Calibration],
    progress: Callable[[int], None] | None,
) -> Calibration:
    """Cut the data into passes, have each seen, and keep a few samples."""
    specs = input_specs(Graph(prepared.model))
    free = {spec.name: spec.batch is None for spec in specs}
    kept = Reservoir()
    samples = 0
    for inputs, count in passes(batches, specs, what):
        see(inputs, samples)
        kept.pass_by(samples, inputs, count, free)
        samples += count
        if progress is not None:
            progress(samples)
    found = calibration(samples)
    return replace(
        found,
        kept=tuple(sample for _, sample in kept.entries),
        kept_at=tuple(at for at, _ in kept.entries),
    )
