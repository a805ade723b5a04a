"""The networks of the example suite know what they were trained for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from harness.data import batches, network_inputs, open_data
from harness.job import load_job

FOLDER = Path(__file__).parents[2] / "examples/pytest-lab"


@pytest.mark.parametrize(
    ("name", "right"), [("linear", 572), ("perceptron", 585), ("gru", 588), ("digits", 588)]
)  # the first two as train.py printed them
def test_each_job_reads_600_samples_and_its_float_network_knows_them(name: str, right: int) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    job = load_job(FOLDER / f"{name}.yaml")
    data = open_data(job.data, job.preprocess, network_inputs(job.model), job.path.parent)
    session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
    found = 0
    for batch in batches(data, range(len(data)), 100, fixed=False):
        assert batch.labels is not None
        scores = np.asarray(session.run(None, dict(batch.inputs))[0])
        found += int((scores.argmax(axis=1) == np.asarray(batch.labels)).sum())
    assert len(data) == 600
    assert found == right if name in {"linear", "perceptron"} else found >= right
    assert {gate.name for gate in job.gates} == {"accuracy", "learnable_memory_ratio"}
