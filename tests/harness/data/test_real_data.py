"""Published accuracies of real networks come out of a plain ONNX Runtime loop over our data sets, to the sample.

The counts are those of the data's own README, measured there with other code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from harness.data import DataSpec, PreprocessFile, batches, network_inputs, open_data

KWS = """
import csv
from pathlib import Path
import numpy as np
FOLDER = Path({folder!r})
def load():
    with (FOLDER / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    raw = [np.fromfile(FOLDER / "features" / row["filename"], np.int8) for row in rows]
    features = (np.stack(raw).astype(np.float32) - 83) * 0.5847029089927673
    return {{"input_1": features.reshape(-1, 49, 10, 1)}}, [int(row["label_index"]) for row in rows]
"""

CASES: dict[str, tuple[str, str, dict[str, Any], int, int, int]] = {
    # network, data, preprocessing, label offset, correct, of
    "squeezenet": (
        "squeezenet1.1", "imagenet500",
        {"channels": "bgr", "mean": [104, 117, 123], "std": [1, 1, 1], "layout": "NCHW"}, 0, 297, 500,
    ),
    "mobilenet": ("mobilenet_v1_0.25_224", "imagenet500", {"scale": "1/127.5", "mean": 1}, 1, 290, 500),
    "resnet8": ("mlperf_tiny_resnet8_cifar10", "cifar10_jpeg", {}, 0, 751, 1000),
    "vww": ("mlperf_tiny_vww_mobilenet", "vww96", {"scale": "1/255"}, 0, 104, 120),
    "mnist": ("mnist-8", "mnist/mnist_test_2000.npz", {}, 0, 1968, 2000),
    "kws": ("mlperf_tiny_kws_dscnn", "kws:load", {}, 0, 456, 500),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_accuracy_of_a_plain_loop(real: Path, tmp_path: Path, case: str) -> None:
    network, source, steps, offset, correct, count = CASES[case]
    model = real / f"models/{network}.onnx"
    base = tmp_path if ":" in source else real
    (tmp_path / "kws.py").write_text(KWS.format(folder=str(real / "kws01")))
    inputs = network_inputs(model)
    data = open_data(DataSpec(source, label_offset=offset), PreprocessFile(**steps).value(), inputs, base)
    assert len(data) == count
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    size = inputs[0].fixed_batch
    right = 0
    for batch in batches(data, range(count), size or 64, fixed=size is not None):
        outputs = session.run(None, dict(batch.inputs))[0].reshape(batch.size, -1)[: batch.real]
        assert batch.labels is not None
        right += int(np.sum(outputs.argmax(axis=1) == batch.labels))
    assert right == correct
