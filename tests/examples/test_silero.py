"""Silero VAD: the job feeds it right, and int8 decides as float does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import quantizer_recurrent
from harness.data import data_inputs, network_inputs, open_data
from harness.data.functions import import_function
from harness.job import load_job

JOB = Path(__file__).parents[2] / "examples/silero/job.yaml"

pytestmark = pytest.mark.skipif(quantizer_recurrent.missing() is not None, reason="the recording is not here")


def test_the_job_gives_every_frame_and_the_metric_is_one_for_the_float_network() -> None:
    job = load_job(JOB)
    inputs = data_inputs(network_inputs(job.model), job.state)
    data = open_data(job.data, job.preprocess, inputs, job.base)
    batch = data.read(range(len(data)))
    assert batch.inputs["input"].shape == (1875, 576)
    assert batch.inputs["sr"].shape == ()
    assert batch.labels is not None
    assert batch.labels.mean() == pytest.approx(0.774, abs=0.001)  # as the data's own README has it
    found = quantizer_recurrent.probabilities(job.model, np.asarray(batch.inputs["input"], np.float32))
    same = import_function(job.metrics[0], job.base)({"output": found[:, None]}, batch.labels)
    assert same.shape == (1875,)
    assert same.all()


# Powers of two reach 99.1 and 99.0 %, and another choice of fitted samples moves that by 0.4 points.
@pytest.mark.slow
@pytest.mark.parametrize(("environment", "least"), [("cpu", 0.99), ("gpu", 0.99), ("fpga", 0.985), ("host", 0.985)])
def test_int8_decides_as_float_does(tmp_path: Path, environment: str, least: float) -> None:
    found = quantizer_recurrent.speech_decisions(environment, tmp_path / "int8.onnx")
    assert found.same >= least
    assert "/model/decoder/rnn/LSTM" in {name.split("/gates")[0] for name, _ in found.model.kept_float}
