"""Samples for a command that works on one network: from --data, or from a job file with its preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.data import DataSet, DataSpec, InputSpec, Preprocess, data_inputs, network_inputs, open_data, split
from harness.errors import UserError
from harness.job import load_job
from harness.quantize.sequence import with_states, zero_state
from harness.runs.networks import calibration_feeds
from harness.runs.samples import Array


@dataclass(frozen=True, slots=True)
class ModelData:
    """The samples a command calibrates with.

    Args:
        model: the float network.
        indices: which of the data set.
        fixed_batch: the batch the network insists on.
        state: {input: output} of a recurrent network, as the job has it.
        sequence: the samples that a recurrent network runs through, in the order of time, to come to those.
    """

    model: Path
    data: DataSet
    indices: tuple[int, ...]
    fixed_batch: int | None
    state: Mapping[str, str]
    sequence: tuple[int, ...]

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
    every = network_inputs(model)
    if job is not None:
        loaded = load_job(job)
        spec, preprocess, base, batch = loaded.data, loaded.preprocess, loaded.base, loaded.batch
        state = loaded.state
    else:
        spec, preprocess, base, batch, state = DataSpec(str(data)), Preprocess(), Path.cwd(), None, {}
    inputs = data_inputs(every, state)
    opened = open_data(spec, preprocess, inputs, base)
    count = min(samples, len(opened))
    # The samples of a sequence stay in the order of time.
    picked = count < len(opened) and not state
    indices = split(len(opened), count, spec.seed).calibration if picked else tuple(range(count))
    return ModelData(model, opened, indices, batch or _fixed(inputs), state, indices)


def job_state(job: Path | None) -> Mapping[str, str]:
    """{input: output} of a recurrent network, where a job file says it."""
    return {} if job is None else load_job(job).state


def _fixed(inputs: tuple[InputSpec, ...] | list[InputSpec]) -> int | None:
    first = next((spec for spec in inputs if spec.shape), None)
    return None if first is None else first.fixed_batch


def samples_of(opened: ModelData, progress: Callable[[int], None] | None = None) -> Iterator[dict[str, Array]]:
    """The samples as the network takes them; with the float network's own state where it is recurrent."""
    if not opened.state:
        yield from calibration_feeds(opened.data, opened.indices, opened.fixed_batch, progress)
        return
    wanted = set(opened.indices)
    steps = calibration_feeds(opened.data, opened.sequence, 1, progress)
    first = zero_state(network_inputs(opened.model), opened.state)
    for index, feed in zip(opened.sequence, with_states(opened.model, steps, opened.state, first), strict=True):
        if index in wanted:
            yield feed


@contextmanager
def feeds_with_bar(label: str, opened: ModelData, *, quiet: bool) -> Iterator[Iterator[dict[str, Array]]]:
    """The samples as the network takes them, with a progress bar on a terminal's stderr."""
    if quiet or not sys.stderr.isatty():
        yield samples_of(opened)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=opened.count)
        yield samples_of(opened, lambda done: progress.update(task, completed=done))
