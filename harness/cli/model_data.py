"""Samples for a command that works on one network: from --data, or from a job file with its preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.data import DataSet, DataSpec, InputSpec, Preprocess, network_inputs, open_data, split
from harness.errors import UserError
from harness.job import load_job
from harness.runs.networks import calibration_feeds
from harness.runs.samples import Array


@dataclass(frozen=True, slots=True)
class ModelData:
    """The samples a command calibrates with.

    Args:
        indices: which of the data set.
        fixed_batch: the batch the network insists on.
    """

    data: DataSet
    indices: tuple[int, ...]
    fixed_batch: int | None

    @property
    def count(self) -> int:
        """How many samples."""
        return len(self.indices)


def open_model_data(model: Path, data: str | None, job: Path | None, samples: int) -> ModelData:
    """Open what --data or --job names for this network.

    Raises:
        UserError: neither or both are given, or they cannot be used.
    """
    if (data is None) == (job is None):
        message = "give the samples with --data DATA, or with --job JOB.yaml when they need preprocessing"
        raise UserError(message)
    inputs = network_inputs(model)
    if job is not None:
        loaded = load_job(job)
        spec, preprocess, base, batch = loaded.data, loaded.preprocess, loaded.base, loaded.batch
    else:
        spec, preprocess, base, batch = DataSpec(str(data)), Preprocess(), Path.cwd(), None
    opened = open_data(spec, preprocess, inputs, base)
    count = min(samples, len(opened))
    indices = split(len(opened), count, spec.seed).calibration if count < len(opened) else tuple(range(count))
    return ModelData(opened, indices, batch or _fixed(inputs))


def _fixed(inputs: tuple[InputSpec, ...] | list[InputSpec]) -> int | None:
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, int) and first > 0 else None


@contextmanager
def feeds_with_bar(label: str, opened: ModelData, *, quiet: bool) -> Iterator[Iterator[dict[str, Array]]]:
    """The samples as the network takes them, with a progress bar on a terminal's stderr."""
    if quiet or not sys.stderr.isatty():
        yield calibration_feeds(opened.data, opened.indices, opened.fixed_batch)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=opened.count)
        yield calibration_feeds(
            opened.data, opened.indices, opened.fixed_batch, lambda done: progress.update(task, completed=done)
        )
