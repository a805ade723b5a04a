"""What follows the last int8 layer stays float by the graph's shape and by measured ranges, never by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize import QuantizedModel, calibrate, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]


def made(path: Path, environment: str, data: np.ndarray, out: Path) -> QuantizedModel:
    calibration = calibrate(path, [{"image": data}], environment=environment)
    return quantize(path, calibration, environment=environment, method="minmax", out=out, recover=())


def detector(builder: type[Any], path: Path, *, box_gain: float, decode: bool) -> Path:
    """A convolution whose channels are 4 box coordinates, `box_gain` times larger, and 3 scores."""
    net = builder(7)
    net.conv("image", "body", (16, 3, 3, 3), pads=[1] * 4)
    net.add("Relu", ["body"], "active")
    weights = net.rng.normal(size=(7, 16, 1, 1)).astype(np.float32) / 4
    weights[:4] *= box_gain
    net.add("Conv", ["active", net.constant("head.w", weights)], "head")
    if decode:
        net.nodes.append(onnx.helper.make_node("Split", ["head", "sizes"], ["offsets", "logits"], name="parts", axis=1))
        net.constant("sizes", np.array([4, 3]))
        net.add("Sigmoid", ["logits"], "scores")
        net.add("Mul", ["offsets", net.constant("stride", np.float32(8))], "scaled")
        net.add("Add", ["scaled", net.constant("grid", np.arange(8, dtype=np.float32))], "boxes")
        net.add("Concat", ["boxes", "scores"], "found", axis=1)
    name = "found" if decode else "head"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {name: None}), path)
    return path


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_decoding_stays_float(
    environment: str, builder: type[Any], tmp_path: Path, images: Callable[..., Any], run: Callable[..., Any]
) -> None:
    path = detector(builder, tmp_path / "net.onnx", box_gain=1, decode=True)
    out = made(path, environment, images(16), tmp_path / "q.onnx")
    kept = dict(out.kept_float)
    assert {"scores", "scaled", "boxes", "found"} <= kept.keys()
    if environment != "gpu":  # whose rules need no such reason: int8 stands in front of convolutions only
        assert "joins results" in kept["found"]
        assert "decoding" in kept["boxes"]
    assert not {"body", "head"} & kept.keys()
    feed = {"image": images(4, seed=9)}
    (before,), (after,) = run(path, feed), run(out.path, feed)
    for part in (slice(0, 4), slice(4, 7)):
        assert sqnr_db(before[:, part], after[:, part]) > (14 if environment == "fpga" else 20)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("environment", ["cpu", "fpga", "host"])
def test_channels_of_very_different_ranges_leave_in_float(
    environment: str,
    decode: bool,
    builder: type[Any],
    tmp_path: Path,
    images: Callable[..., Any],
    run: Callable[..., Any],
) -> None:
    path = detector(builder, tmp_path / "net.onnx", box_gain=300, decode=decode)
    out = made(path, environment, images(16), tmp_path / "q.onnx")
    assert any(note.startswith("'head' joins channels") for note in out.notes)
    graph = Graph(read_model(out.path))
    makers = [graph.producer[name].op_type for name in graph.node("head").input[:2] if name in graph.producer]
    if environment == "cpu":
        assert makers == ["DequantizeLinear", "DequantizeLinear"]  # it multiplies integers
        assert "head" not in dict(out.kept_float)
    else:
        assert "joins channels" in dict(out.kept_float)["head"]
    assert all(use.node.op_type != "QuantizeLinear" for use in graph.uses["head"])
    feed = {"image": images(4, seed=9)}
    (before,), (after,) = run(path, feed), run(out.path, feed)
    assert sqnr_db(before[:, 4:], after[:, 4:]) > 20


@pytest.mark.parametrize("environment", ["cpu", "host"])
def test_like_channels_share_a_scale(
    environment: str, builder: type[Any], tmp_path: Path, images: Callable[..., Any]
) -> None:
    path = detector(builder, tmp_path / "net.onnx", box_gain=3, decode=False)
    out = made(path, environment, images(16), tmp_path / "q.onnx")
    assert not any("joins channels" in note for note in out.notes)
    graph = Graph(read_model(out.path))
    assert graph.producer["head"].op_type == "DequantizeLinear"


def test_classes_that_a_softmax_compares_share_a_scale(
    builder: type[Any], tmp_path: Path, images: Callable[..., Any]
) -> None:
    net = builder(7)
    weights = net.rng.normal(size=(5, 3, 1, 1)).astype(np.float32)
    weights[3:] *= 1e-3  # classes that never win
    net.add("Conv", ["image", net.constant("head.w", weights)], "head")
    net.add("Softmax", ["head"], "scores", axis=1)
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"scores": None}), path)
    assert not any("joins channels" in note for note in made(path, "cpu", images(16), tmp_path / "q.onnx").notes)
