"""The example jobs express what their networks need: the float accuracy of the data's own README comes out.

`../shared/data/README.md` gives 59.4 / 81.2 % (SqueezeNet 1.1) and 58.0 / 80.2 % (MobileNet v1 0.25) on all 500 images,
measured there with preprocessing code of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from harness.data import batches, network_inputs, open_data
from harness.job import load_job
from harness.targets.lab import load_lab

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared/data"

needs_images = pytest.mark.skipif(
    not (SHARED / "imagenet500").is_dir(), reason="the ImageNet images are not beside the repository"
)


def test_the_digits_job_loads_and_gives_600_samples() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    job = load_job(REPOSITORY / "examples/digits/job.yaml")
    data = open_data(job.data, job.preprocess, network_inputs(job.model), job.path.parent)

    assert len(data) == 600
    assert job.data.calibration == 100


@needs_images
@pytest.mark.parametrize(
    ("name", "right", "right_in_five"), [("squeezenet", 0.594, 0.812), ("mobilenet", 0.580, 0.802)]
)
def test_float_accuracy_is_that_of_the_datas_readme(name: str, right: float, right_in_five: float) -> None:
    job = load_job(REPOSITORY / "examples" / name / "job.yaml")
    inputs = network_inputs(job.model)
    data = open_data(job.data, job.preprocess, inputs, job.path.parent)
    session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
    first, five = 0, 0
    for batch in batches(data, range(len(data)), job.batch or 1, fixed=True):
        scores = session.run(None, dict(batch.inputs))[0].reshape(-1)
        best = np.argsort(-scores)[:5]
        assert batch.labels is not None
        label = int(batch.labels[0])
        first += label == best[0]
        five += label in best

    assert len(data) == 500
    assert (first / 500, five / 500) == (right, right_in_five)
    assert job.data.calibration == 100


def test_the_newcomers_lab_has_one_measured_target_and_three_stand_ins() -> None:
    lab = load_lab(REPOSITORY / "targets.yaml")

    assert {name: (target.environment, target.via.kind) for name, target in lab.targets.items()} == {
        "this-machine": ("cpu", "local"),
        "jetson-emulated": ("gpu", "emulated"),
        "rpi-emulated": ("cpu", "emulated"),
        "zcu102-emulated": ("fpga", "emulated"),
    }
