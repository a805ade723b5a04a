"""A whole run on data whose labels are masks: the published value is the one worked out here, and recomputes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import harness
from harness.judge.comparison import Comparison
from harness.judge.samples import recompute_all
from harness.runs.engine import Run

SIDE, COUNT = 16, 12
#: Emulated, so that nothing is timed and no other run need be waited for.
LAB = {"targets": {"here": {"board": "raspberry-pi-4", "environment": "cpu", "via": "emulated"}}}


def bright_or_dark(path: Path) -> None:
    """Scores [N, 2, 16, 16] of one channel: class 1 where the picture is brighter than one half."""
    weight = np.array([-1.0, 1.0], np.float32).reshape(2, 1, 1, 1)
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0.5, -0.5], np.float32), "b")]
    node = helper.make_node("Conv", ["x", "w", "b"], ["scores"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2, SIDE, SIDE])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run with `miou`, a metric per sample and one over the whole set."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(4)
    (folder / "data/images").mkdir(parents=True)
    (folder / "data/masks").mkdir()
    for index in range(COUNT):
        pixels = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
        Image.fromarray(pixels).save(folder / f"data/images/{index:02}.png")
        stored = np.where(rng.random(pixels.shape) < 0.1, 9, np.where(pixels > 127, 5, 3)).astype(np.uint8)
        stored[rng.random(pixels.shape) < 0.2] = 5  # so that it is not always right
        Image.fromarray(stored).save(folder / f"data/masks/{index:02}.png")
    bright_or_dark(folder / "net.onnx")
    (folder / "own.py").write_text(
        "def brightness(outputs, masks):\n    return outputs['scores'][:, 1].mean(axis=(1, 2))\n"
        "\n\ndef spread(outputs, masks):\n    return float(outputs['scores'].std())\n"
    )
    job = {
        "model": "net.onnx",
        "data": {
            "source": "data",
            "labels": "masks",
            "label_map": {3: 0, 5: 1, 9: "ignore"},
            "calibration": 4,
        },
        "preprocess": {"scale": "1/255"},
        "metrics": ["miou", "own:brightness", "own:spread"],
        "quantize": {"method": "minmax", "recover": []},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    (folder / "targets.yaml").write_text(json.dumps(LAB))
    run = harness.run(folder / "job.yaml", lab=folder / "targets.yaml", out=folder / "out", profile="quick")
    return run, folder


def expected_miou(folder: Path, ids: list[str]) -> float:
    """Counted pixel by pixel from the files."""
    shared, either = np.zeros(2), np.zeros(2)
    for name in ids:
        with Image.open(folder / "data" / name) as image:
            predicted = np.asarray(image) / 255 > 0.5
        with Image.open(folder / "data/masks" / Path(name).name) as image:
            mask = np.asarray(image)
        for label, stored in enumerate((3, 5)):
            truth, claimed, counted = mask == stored, predicted == bool(label), mask != 9
            shared[label] += (truth & claimed).sum()
            either[label] += ((truth | claimed) & counted).sum()
    return float((shared / either).mean())


def test_the_published_value_is_the_one_counted_by_hand(finished: tuple[Run, Path]) -> None:
    run, folder = finished
    comparison = run.comparison("here")
    (first, _) = comparison.target.samples
    kept = np.load(folder / "out" / first.path)["ids"].tolist()
    assert len(kept) == COUNT - 4
    figure = comparison.figure("miou", "Floating-Point")
    assert figure is not None
    assert figure.value == pytest.approx(expected_miou(folder, kept))
    assert figure.ci_low is not None
    assert figure.ci_high is not None
    assert figure.ci_low < expected_miou(folder, kept) < figure.ci_high
    delta = comparison.figure("miou_delta")
    assert delta is not None
    # int8 changes no pixel here, and what never differs says nothing of how much it might
    assert (delta.value, delta.ci_low, delta.ci_high) == (0, None, None)
    assert "no interval" in delta.note


def test_what_was_kept_recomputes_and_is_what_the_record_says(finished: tuple[Run, Path]) -> None:
    run, folder = finished
    comparison: Comparison = run.comparison("here")
    for sample in comparison.target.samples:
        content = (folder / "out" / sample.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sample.digest
        assert sample.metrics == ("miou", "brightness", "spread")
        assert sample.without_rows == ("spread",)
        assert recompute_all(content) == {
            name: comparison.value(name, sample.network) for name in ("miou", "brightness")
        }
    stored = json.loads((folder / "out/run.json").read_text())
    assert len(stored["targets"][0]["samples"]) == 2
    spread = comparison.figure("spread_delta")
    assert spread is not None
    assert spread.ci_low is None
    assert "no interval" in spread.note


def test_the_networks_are_compared_on_their_own_outputs(finished: tuple[Run, Path]) -> None:
    run, _ = finished
    assert (run.comparison("here").value("sqnr_db") or 0) > 30
    assert run.comparison("here").value("top1_agreement") is None


def test_a_metric_that_takes_other_labels_is_refused_before_a_board_is_touched(finished: tuple[Run, Path]) -> None:
    _, folder = finished
    text = (folder / "job.yaml").read_text().replace("miou", "map50")
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(harness.errors.UserError, match="map50 takes labels that are boxes, those of data are masks"):
        harness.run(folder / "wrong.yaml", lab=folder / "targets.yaml", out=folder / "nothing")
    assert not (folder / "nothing").exists()
