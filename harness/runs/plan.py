"""What a run will do, decided before anything happens."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data import (
    DataSet,
    InputSpec,
    Split,
    check_labels,
    data_inputs,
    label_kind,
    network_inputs,
    network_outputs,
    open_data,
    split,
)
from harness.data.functions import import_function
from harness.errors import UserError
from harness.job import Job
from harness.judge.metrics import Metric, resolve_metrics
from harness.quantize.sequence import with_states, zero_state
from harness.runs.budget import LEAST_S
from harness.runs.designs import check_designs
from harness.runs.networks import calibration_feeds
from harness.runs.profile import Profile
from harness.runs.samples import SampleReader
from harness.runs.sweep import check_batches, swept
from harness.targets.lab import Lab
from harness.targets.qemu.user_mode import check_ready
from harness.targets.qemu_system.use import check_ready as check_board_ready
from harness.targets.target import Target


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can start.

    Args:
        split_name: "validation" (what calibration left) or "all".
        split: indices into the data set.
        fixed_batch: the batch size the network insists on, None when it is free.
        out: the run's folder.
        budget_s: what the timing of a target may take; None: what the profile wants.
    """

    run_id: str
    job: Job
    lab: Lab
    targets: tuple[Target, ...]
    profile: Profile
    split_name: str
    split: Split
    data: DataSet
    inputs: tuple[InputSpec, ...]
    fixed_batch: int | None
    out: Path
    budget_s: float | None = None

    @property
    def environments(self) -> tuple[str, ...]:
        """The rule books this run needs, in the order of the targets."""
        return tuple(dict.fromkeys(target.environment for target in self.targets))

    @property
    def samples(self) -> tuple[int, ...]:
        """The samples that accuracy rests on."""
        return tuple(range(len(self.data))) if self.split_name == "all" else self.split.validation

    def reader(self) -> SampleReader:
        """Reads the samples that accuracy rests on, for all targets."""
        return SampleReader(self.data, self.samples, in_one=bool(self.job.state))

    def feeds(
        self, indices: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The samples of `indices` as the float network takes them, with its state where it is recurrent."""
        if not self.job.state:
            return calibration_feeds(self.data, indices, self.fixed_batch, progress)
        samples = calibration_feeds(self.data, indices, 1, progress)
        return with_states(self.job.model, samples, self.job.state, self.zero_state())

    def zero_state(self) -> dict[str, NDArray[np.generic]]:
        """The state a recurrent network starts from; empty for the others. Free dimensions count as 1."""
        return zero_state(self.inputs, self.job.state)


def new_run_id(job_name: str) -> str:
    """Sortable by time, unique, and fit for a file name: `20261121-104500-squeezenet-3fa9`."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{job_name[:40]}-{secrets.token_hex(2)}"


def make_plan(
    job: Job,
    lab: Lab,
    names: Sequence[str] | None,
    *,
    profile: Profile,
    split_name: str = "validation",
    out: Path | None = None,
    run_id: str | None = None,
    budget_s: float | None = None,
) -> Plan:
    """Check everything that can be checked without touching a board.

    Raises:
        UserError: unknown target, unusable data or network, nothing left to validate on.
    """
    if split_name not in {"validation", "all"}:
        message = f"--split {split_name}: choose 'validation' (what calibration leaves) or 'all'"
        raise UserError(message)
    if budget_s is not None and not LEAST_S <= budget_s < math.inf:
        message = f"--budget {budget_s:g}: too short to warm up and time anything; give {LEAST_S:g} seconds or more"
        raise UserError(message)
    targets = tuple(lab.select(names)) if names else tuple(lab.targets.values())
    if not targets:
        message = f"{lab.path}: no targets; `quantrig targets add` adds one"
        raise UserError(message)
    for target in targets:
        if target.via.machine is not None:
            check_board_ready(target)
        elif target.via.kind == "qemu":
            check_ready(target)
    check_designs(targets)
    identity = run_id or new_run_id(job.name)
    inputs = tuple(network_inputs(job.model))
    fed = data_inputs(inputs, job.state)
    check_batches(job, fed)
    data = open_data(job.data, job.preprocess, fed, job.base)
    if len(data) == 0:
        message = f"{job.path}: data.source holds no samples"
        raise UserError(message)
    _check_labels(job, data, _check_functions(job))
    return Plan(
        identity,
        job,
        lab,
        swept(targets, job.sweep),
        profile,
        split_name,
        _split(job, len(data)),
        data,
        inputs,
        _fixed_batch(job, fed),
        (out or Path("reports") / identity).absolute(),
        budget_s,
    )


def _check_functions(job: Job) -> tuple[Metric, ...]:
    """The job's metrics. Names that mean nothing, found before a board is bothered rather than after all of it ran."""
    try:
        metrics = resolve_metrics(job.metrics, lambda spec: import_function(spec, job.base))
        if job.postprocess is not None:
            import_function(job.postprocess, job.base)
    except UserError as error:
        raise UserError(f"{job.path}: {error}") from error
    return metrics


def _check_labels(job: Job, data: DataSet, metrics: Sequence[Metric]) -> None:
    """Labels that cannot be, found before a board is bothered rather than after all of it ran."""
    if not job.metrics:
        return
    kind = label_kind(data)
    if not kind:
        raise UserError(
            f"{job.path}: metrics {', '.join(job.metrics)} need labels and {data.name} has none; "
            "add them (labels.csv, `data.labels`, or `labels` in the .npz) or set `metrics: []`"
        )
    for metric in metrics:
        if metric.takes and metric.takes != kind:
            raise UserError(
                f"{job.path}: metrics: {metric.name} takes labels that are {metric.takes}, those of {data.name} are "
                f"{kind} ({data.label_source}); see docs/metrics.md, or use module:function"
            )
    if data.labels is not None and job.postprocess is None and all(n.startswith("accuracy_top") for n in job.metrics):
        outputs = network_outputs(job.model)
        shape = outputs[0][1] if len(outputs) == 1 else None
        if shape is not None and len(shape) == 2 and shape[1] is not None:
            _check_ranks(job, shape[1])
            check_labels(data.labels, shape[1], ids=data.ids, where=data.label_source)


def _check_ranks(job: Job, classes: int) -> None:
    for name in job.metrics:
        if int(name.removeprefix("accuracy_top")) > classes:
            raise UserError(f"{job.path}: metrics: {name}, but the network has only {classes} classes")


def _split(job: Job, count: int) -> Split:
    if not job.state:
        return split(count, job.data.calibration, job.data.seed)
    # a recurrent network reads its samples in the order of time: calibration takes the first stretch
    shuffled = split(count, job.data.calibration, job.data.seed)
    edge = len(shuffled.calibration)
    return Split(tuple(range(edge)), tuple(range(edge, count)))


def _fixed_batch(job: Job, inputs: Sequence[InputSpec]) -> int | None:
    insists = next((spec for spec in inputs if spec.shape), inputs[0]).fixed_batch
    if job.batch is not None and insists is not None and job.batch != insists:
        raise UserError(
            f"{job.path}: batch: {job.batch}, but {job.model.name} was exported for a fixed batch of {insists}; "
            f"leave `batch` out or set it to {insists}"
        )
    return insists if job.batch is None else job.batch
