"""Batch and thread sweeps: one timed target at several settings, each a row group of its own.

A setting is a target whose name says it, `rpi5-lab [batch 4, 2 threads]`: so every table, file and test that takes a
target takes a setting. Stand-ins have no time and are not swept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.data import InputSpec
from harness.errors import UserError
from harness.job import Job, Sweep
from harness.targets.target import Target

#: Bounds of a job file's `batch` and of a target's `threads`.
MOST_BATCH, MOST_THREADS = 65_536, 1024


def parse_list(option: str, text: str, most: int) -> tuple[int, ...]:
    """`1,4,16` → (1, 4, 16), each once.

    Args:
        option: what to call it in an error.
        text: as given.
        most: the largest value.

    Raises:
        UserError: no such list.
    """
    values = []
    for part in text.split(","):
        try:
            values.append(int(part))
        except ValueError:
            raise UserError(f"{option} {text}: '{part.strip()}' is no whole number; give a list such as 1,4") from None
        if not 1 <= values[-1] <= most:
            raise UserError(f"{option} {text}: {values[-1]} is not between 1 and {most:,}")
    return tuple(dict.fromkeys(values))


def with_sweep(job: Job, batch: str | None, threads: str | None) -> Job:
    """The job with the sweep of `--batch` and `--threads` in place of its own, where they are given.

    Raises:
        UserError: not a list of numbers.
    """
    batches = job.sweep.batch if batch is None else parse_list("--batch", batch, MOST_BATCH)
    counts = job.sweep.threads if threads is None else parse_list("--threads", threads, MOST_THREADS)
    return replace(job, sweep=Sweep(batches, counts))


def swept(targets: Iterable[Target], sweep: Sweep) -> tuple[Target, ...]:
    """Every timed target at every setting, the others as they are."""
    if not sweep.batch and not sweep.threads:
        return tuple(targets)
    made: list[Target] = []
    for target in targets:
        if not target.timed:
            made.append(target)
            continue
        for batch, threads in itertools.product(sweep.batch or (None,), sweep.threads or (None,)):
            said = [f"batch {batch}"] if batch is not None else []
            said += [f"{threads} thread{'s' * (threads > 1)}"] if threads is not None else []
            made.append(
                replace(
                    target,
                    name=f"{target.name} [{', '.join(said)}]",
                    entry=target.name,
                    batch=batch,
                    threads=target.threads if threads is None else threads,
                )
            )
    return tuple(made)


def check_batches(job: Job, inputs: Sequence[InputSpec]) -> None:
    """Refuse batch sizes that the network cannot take, in one line.

    Raises:
        UserError: it was exported for another fixed batch, or is recurrent and takes one sample after the other.
    """
    fixed = next((spec for spec in inputs if spec.shape), inputs[0]).fixed_batch
    for batch in job.sweep.batch:
        if fixed is not None and batch != fixed:
            raise UserError(
                f"batch {batch}: {job.model.name} was exported for a fixed batch of {fixed}; leave --batch out, or "
                "export it with a free first dimension"
            )
        if job.state and batch != 1:
            raise UserError(f"batch {batch}: {job.model.name} keeps state from sample to sample; it takes batch 1 only")
