"""The networks of a run as files on the host: the float one as it came, and one int8 network per environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.data import DataSet
from harness.data.network_files import network_digest, read_light
from harness.job import Job
from harness.quantize import QuantizedModel, calibrate, describe_own, learnable_memory_bytes, quantize
from harness.quantize.runtime import optimizers_that_break
from harness.quantize.writing import as_single_file
from harness.record.networks import QuantizedRecord
from harness.runs.layers import LAYER_SAMPLES, layer_sqnr
from harness.runs.samples import Array, feeds

#: Every tenth calibration sample, at least 8 and at most 32, is held back to choose between methods.
_HELD_BACK_SHARE, _HELD_BACK_LEAST, _HELD_BACK_MOST = 10, 8, 32


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """One network ready to ship.

    Args:
        digest: sha256 of the file.
        learnable_bytes: its weights and biases, counted from their dtypes.
        disabled_optimizers: graph optimizers that must not run on it.
    """

    path: Path
    digest: str
    size_bytes: int
    learnable_bytes: int
    disabled_optimizers: tuple[str, ...] = ()


class Feeds(Protocol):
    """Reads samples as the network takes them, a stream."""

    def __call__(self, indices: Sequence[int], progress: Callable[[int], None] | None, /) -> Iterator[dict[str, Array]]:
        """The samples of `indices`; `progress` is told how many were given."""


def digest_of(path: Path) -> str:
    """sha256 of a network, its data files included, lower-case hex.

    Raises:
        UserError: it cannot be read.
    """
    return network_digest(path)


def network_file(path: Path, folder: Path, disabled_optimizers: Sequence[str] = ()) -> NetworkFile:
    """A network as it travels: its file, or one written to `folder` where the network has data files.

    Raises:
        UserError: it is above the 2 GB of a single file.
    """
    path = as_single_file(path, folder / f"{path.stem}.single.onnx")
    breaking = optimizers_that_break(read_light(path))
    return NetworkFile(
        path,
        digest_of(path),
        path.stat().st_size,
        learnable_memory_bytes(path),
        tuple(dict.fromkeys((*disabled_optimizers, *breaking))),
    )


def calibration_feeds(
    data: DataSet, indices: Sequence[int], fixed_batch: int | None, progress: Callable[[int], None] | None = None
) -> Iterator[dict[str, Array]]:
    """The calibration samples as the network takes them, a stream: nothing but one chunk is in memory."""
    step = fixed_batch or 8
    for start in range(0, len(indices), step):
        batch = data.read(indices[start : start + step])
        for part, _real in feeds(batch.inputs, fixed_batch):
            yield part
        if progress is not None:
            progress(min(start + step, len(indices)))


def quantize_for(
    job: Job,
    environment: str,
    feeds_of: Feeds,
    calibration: Sequence[int],
    *,
    out: Path,
    progress: Callable[[int, int], None],
) -> tuple[NetworkFile, QuantizedRecord]:
    """Make (or take over) the int8 network of one environment.

    Args:
        feeds_of: reads samples as the network takes them.
        calibration: which samples.
        out: the file to write.
        progress: called with (samples calibrated, of how many).

    Raises:
        UserError: the network or the data cannot be used.
    """
    if job.quantized is not None:
        model = describe_own(job.quantized)
    else:
        model = _quantize(job, environment, feeds_of, calibration, out=out, progress=progress)
    file = network_file(model.path, out.parent, model.disabled_optimizers)
    few = held_back(calibration)[:LAYER_SAMPLES]
    layers = layer_sqnr(job.model, model.path, feeds_of(few, None))
    record = QuantizedRecord(
        environment=environment,
        digest=file.digest,
        method=model.method,
        quantized_layers=model.quantized_layers,
        kept_float=tuple(model.kept_float),
        notes=tuple(model.notes),
        disabled_optimizers=tuple(model.disabled_optimizers),
        learnable_bytes=file.learnable_bytes,
        layers=layers,
        layers_samples=len(few) if layers else 0,
    )
    return file, record


def _quantize(
    job: Job,
    environment: str,
    feeds_of: Feeds,
    calibration: Sequence[int],
    *,
    out: Path,
    progress: Callable[[int, int], None],
) -> QuantizedModel:
    choice = job.quantize.for_environment(environment)
    held = held_back(calibration)
    deciding = choice.method == "auto" or choice.recover != ()
    ranges_from = [index for index in calibration if index not in set(held)] if deciding else calibration
    total = len(ranges_from)
    ranges = calibrate(
        job.model,
        feeds_of(ranges_from, lambda done: progress(done, total)),
        environment=environment,
        layers="needed",
        histograms=choice.method != "minmax" or any("method" in own for own in choice.overrides.values()),
    )
    return quantize(
        job.model,
        ranges,
        environment=environment,
        method=choice.method,
        exclude=tuple(choice.exclude),
        overrides=choice.overrides,
        out=out,
        held_back=list(feeds_of(held, None)) if deciding else None,
        recover=choice.recover,
    )


def held_back(calibration: Sequence[int]) -> list[int]:
    """The slice of the calibration samples that chooses between methods, spread evenly."""
    count = len(calibration)
    if count < 2 * _HELD_BACK_LEAST:
        return list(calibration)
    wanted = min(_HELD_BACK_MOST, max(_HELD_BACK_LEAST, count // _HELD_BACK_SHARE))
    picks = np.linspace(0, count - 1, wanted).astype(int)
    return [calibration[int(i)] for i in picks]
