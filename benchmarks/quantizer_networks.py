"""The networks that the quantizer is measured on: the example jobs, read into memory, split without overlap.

Each network is what `examples/<name>/job.yaml` says: model, data, preprocessing, split, postprocessing, metric. Arrays
are read once; calibration and evaluation hold different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import import_function, labels_at, network_inputs, open_data, split
from harness.job import Job, load_job
from harness.judge.metrics import Metric, resolve_metrics

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Name → images that calibrate; those of the table in the issue, else what the example says.
CLASSIFIERS: Mapping[str, int | None] = {
    "squeezenet": 128,
    "mobilenet": 128,
    "resnet8": None,
    "vww": None,
    "kws": None,
    "mnist": None,
}
OTHERS: Mapping[str, int | None] = {"fastestdet": None, "deeplab": None}
NAMES = (*CLASSIFIERS, *OTHERS)
#: In place of the job's first metric: the rule that the published figures of this table have used from the start.
METRICS: Mapping[str, str] = {"fastestdet": "map50_voc"}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Measured:
    """One network with everything that measuring it takes.

    Args:
        job: the example, with the split in use.
        samples: every sample of the data set, preprocessed: {input: array[N, …]}.
        labels: class numbers int64 [N], or N masks or arrays of boxes.
        calibration_indices: of the samples that calibrate.
        evaluation_indices: of the others.
        metric: of the job, over postprocessed outputs.
    """

    job: Job
    samples: Arrays
    labels: NDArray[np.int64] | list[NDArray[Any]]
    calibration_indices: tuple[int, ...]
    evaluation_indices: tuple[int, ...]
    metric: Metric

    @property
    def name(self) -> str:
        """As the example is called."""
        return self.job.name

    @property
    def model(self) -> Path:
        """The float network."""
        return self.job.model

    @property
    def is_classifier(self) -> bool:
        """Whether an outcome is right or wrong, sample by sample."""
        return self.metric.takes == "classes"

    @cached_property
    def calibration(self) -> Arrays:
        """{input: array[n, …]} of the samples that calibrate; nobody's labels are read."""
        return self.take(self.calibration_indices)

    def take(self, indices: tuple[int, ...] | range) -> Arrays:
        """Some of the samples."""
        return {name: value[list(indices)] for name, value in self.samples.items()}

    def score(self, outputs: Arrays, indices: tuple[int, ...] | range) -> float:
        """The job's metric on raw outputs of these samples, postprocessed as the job says."""
        decoded = self.decode(outputs)
        return float(np.mean(self.metric.compute(decoded, self.labels_of(indices))))

    def labels_of(self, indices: tuple[int, ...] | range) -> NDArray[np.int64] | list[NDArray[Any]]:
        """Of some of the samples."""
        if isinstance(self.labels, list):
            return [self.labels[index] for index in indices]
        return self.labels[list(indices)]

    def decode(self, outputs: Arrays) -> Arrays:
        """The job's postprocessing."""
        if self.job.postprocess is None:
            return outputs
        function: Callable[[Arrays], Any] = import_function(self.job.postprocess, self.job.base)
        result = function(outputs)
        return result if isinstance(result, dict) else {"output": result}


def load(name: str, calibration: int | None = None) -> Measured:
    """A network of `NAMES`.

    Args:
        name: of an example.
        calibration: samples that calibrate; None: this table's number, else the job's.

    Raises:
        UserError: the network or its data are not beside the repository.
    """
    job = load_job(EXAMPLES / name / "job.yaml")
    wanted = calibration or {**CLASSIFIERS, **OTHERS}[name]
    if wanted is not None:
        job = replace(job, data=replace(job.data, calibration=wanted))
    data = open_data(job.data, job.preprocess, network_inputs(job.model), job.base)
    parts = split(len(data), job.data.calibration, job.data.seed)
    whole = data.read(range(len(data)))
    labels = labels_at(data, range(len(data)))
    assert labels is not None, name
    named = METRICS.get(name, job.metrics[0])
    (metric,) = resolve_metrics([named], lambda spec: import_function(spec, job.base))
    samples = {key: np.asarray(value) for key, value in whole.inputs.items()}
    return Measured(job, samples, labels, parts.calibration, parts.validation, metric)


def missing() -> str:
    """Why the networks cannot be measured here, "" when they can."""
    shared = EXAMPLES.parents[1] / "shared/data"
    return "" if (shared / "models").is_dir() else "their files are not beside the repository"
