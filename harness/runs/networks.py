"""The networks of a run as files on the host: the float one as it came, and one int8 network per environment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.data import DataSet
from harness.errors import UserError
from harness.job import Job
from harness.quantize import QuantizedModel, calibrate, describe_own, learnable_memory_bytes, quantize
from harness.record import QuantizedRecord
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
    """sha256 of a file, lower-case hex.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check `model:` in the job file"
        raise UserError(message) from error


def network_file(path: Path, disabled_optimizers: Sequence[str] = ()) -> NetworkFile:
    """Measure a network file."""
    return NetworkFile(
        path, digest_of(path), path.stat().st_size, learnable_memory_bytes(path), tuple(disabled_optimizers)
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
    file = network_file(model.path, model.disabled_optimizers)
    record = QuantizedRecord(
        environment=environment,
        digest=model.digest,
        method=model.method,
        quantized_layers=model.quantized_layers,
        kept_float=tuple(model.kept_float),
        notes=tuple(model.notes),
        disabled_optimizers=tuple(model.disabled_optimizers),
        learnable_bytes=file.learnable_bytes,
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
    ranges_from = [index for index in calibration if index not in set(held)] if choice.method == "auto" else calibration
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
        held_back=list(feeds_of(held, None)) if choice.method == "auto" else None,
    )


def held_back(calibration: Sequence[int]) -> list[int]:
    """The slice of the calibration samples that chooses between methods, spread evenly."""
    count = len(calibration)
    if count < 2 * _HELD_BACK_LEAST:
        return list(calibration)
    wanted = min(_HELD_BACK_MOST, max(_HELD_BACK_LEAST, count // _HELD_BACK_SHARE))
    picks = np.linspace(0, count - 1, wanted).astype(int)
    return [calibration[int(i)] for i in picks]
