"""The shipped default holds what RESULTS.md claims: its samples, its network, its accuracy."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from ruamel.yaml import YAML

from harness.demo import digits
from harness.errors import UserError

REPOSITORY = Path(__file__).parents[3]
MODEL = REPOSITORY / "harness/demo/digits.onnx"
RESULTS = (REPOSITORY / "examples/digits/RESULTS.md").read_text()

needs_scikit_learn = pytest.mark.skipif(
    not any(Path(folder, "sklearn").is_dir() for folder in sys.path), reason="scikit-learn is not installed"
)


def read_yaml(name: str) -> dict[str, object]:
    content: dict[str, object] = YAML(typ="safe").load(REPOSITORY / name)
    return content


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return onnx.load(MODEL)


def test_the_two_parts_together_are_every_sample_once() -> None:
    training, held_out = digits.split(1797)

    assert len(held_out) == 600
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(1797))


def test_the_split_is_the_one_the_committed_network_was_trained_with() -> None:
    numbers = digits.split(1797)[1]

    assert hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest() in RESULTS


@needs_scikit_learn
def test_no_held_out_image_was_trained_on_under_another_number() -> None:
    trained = {image.tobytes() for image in digits.training()[0]["image"]}

    assert len(trained) == 1197
    assert not [number for number, image in enumerate(digits.held_out()[0]["image"]) if image.tobytes() in trained]


@needs_scikit_learn
def test_held_out_samples_have_the_form_the_network_takes() -> None:
    inputs, labels = digits.held_out()
    image = inputs["image"]

    assert image.shape == (600, 1, 32, 32)
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0.0, 1.0)
    assert labels.shape == (600,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))


def test_enlargement_is_pillows_bilinear_one() -> None:
    small = np.random.default_rng(1).integers(0, 17, (5, 8, 8)).astype(np.float32)

    for ours, original in zip(digits.enlarge(small), small, strict=True):
        theirs = np.asarray(Image.fromarray(original).resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_without_scikit_learn_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(UserError, match=re.escape("pip install scikit-learn")):
        digits.held_out()


def test_network_is_a_small_single_file_with_a_free_batch(network: onnx.ModelProto) -> None:
    graph = network.graph
    shapes = {
        value.name: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }

    assert MODEL.stat().st_size < 500_000
    assert next(entry.version for entry in network.opset_import if entry.domain == "") >= 17
    assert shapes == {"image": ["batch", 1, 32, 32], "logits": ["batch", 10]}
    assert not any(each.data_location == onnx.TensorProto.EXTERNAL for each in graph.initializer)
    onnx.checker.check_model(network, full_check=True)


def test_network_has_work_for_every_rule_book(network: onnx.ModelProto) -> None:
    kinds = {node.op_type for node in network.graph.node}
    depthwise = next(node for node in network.graph.node if node.name == "depthwise")

    assert kinds >= {"Conv", "Relu", "Add", "AveragePool", "Gemm"}
    assert "Softmax" not in kinds  # SQNR is that of logits
    assert next(each.i for each in depthwise.attribute if each.name == "group") == 64
    assert len({node.name for node in network.graph.node} - {""}) == len(network.graph.node)


def test_network_says_nothing_of_the_machine_that_trained_it() -> None:
    content = MODEL.read_bytes()

    assert not re.search(rb"\.py:\d|/home/|/tmp/|site-packages|stack_trace", content)


@needs_scikit_learn
def test_accuracy_is_the_recorded_one() -> None:
    inputs, labels = digits.held_out()
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], inputs)
    right = int(np.count_nonzero(logits.argmax(1) == labels))

    assert right >= 0.985 * len(labels)
    assert f"{right} of {len(labels)}" in RESULTS


def test_recorded_digest_is_that_of_the_committed_file() -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in RESULTS


def test_the_newcomers_lab_is_the_demos() -> None:
    assert read_yaml("targets.yaml") == read_yaml("harness/demo/targets.yaml")


def test_the_newcomers_job_is_the_demos() -> None:
    ours, theirs = read_yaml("harness/demo/job.yaml"), read_yaml("examples/digits/job.yaml")

    assert Path(REPOSITORY, "examples/digits", str(theirs.pop("model"))).samefile(MODEL)
    assert Path(REPOSITORY, "harness/demo", str(ours.pop("model"))).samefile(MODEL)
    assert ours == theirs
