"""Channels of a float tensor, made alike just before an int8 layer reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize import calibrate, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.preparation import prepare_model
from harness.quantize.recovery.borders import REASON, Border, scaled

#: How loud the channels of a spectrum are: 1 beside 1/1000.
LOUDNESS = np.logspace(0, -3, 16)


@pytest.fixture
def spectrum(builder: Callable[..., Any], tmp_path: Path) -> Path:
    """Magnitudes, which are float, and two convolutions that read them."""
    net = builder(4)
    net.add("Mul", ["x", "x"], "squares")
    net.constant("loud", (LOUDNESS**2).astype(np.float32).reshape(1, -1, 1))
    net.add("Mul", ["squares", "loud"], "louder")
    net.add("Sqrt", ["louder"], "magnitudes")
    # What is quiet is weighed up, as trained networks do: it counts as much as what is loud.
    weight = net.rng.normal(size=(8, 16, 3)) / LOUDNESS.reshape(1, -1, 1) ** 0.8
    net.constant("w", weight.astype(np.float32))
    net.add("Conv", ["magnitudes", "w"], "first", pads=[1, 1])
    net.add("Relu", ["first"], "relu")
    net.conv("relu", "y", (4, 8, 3), pads=[1, 1])
    path = tmp_path / "spectrum.onnx"
    onnx.save(net.model({"x": ["N", 16, 20]}, {"y": ["N", 4, 20]}), path)
    return path


def feeds(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(4, 16, 20)).astype(np.float32)} for _ in range(count)]


def test_powers_of_two_change_no_bit(spectrum: Path, run: Callable[..., Any]) -> None:
    graph = Graph(prepare_model(read_model(spectrum), "net").model)
    conv = graph.node("first")
    factor = np.exp2(np.arange(16) % 5 - 2.0)
    changed = scaled(graph, [Border("first", conv.input[0], conv.input[1])], {"first": factor})
    onnx.checker.check_model(changed, full_check=True)
    feed = feeds(1, 0)[0]
    assert np.array_equal(run(graph.model, feed)[0], run(changed, feed)[0])
    assert np.array_equal(Graph(changed).array(conv.input[1]) * factor.reshape(1, -1, 1), graph.array(conv.input[1]))


@pytest.mark.parametrize("environment", ["fpga", "host", "gpu"])
def test_it_is_kept_where_quiet_channels_count(spectrum: Path, tmp_path: Path, environment: str) -> None:
    ranges = calibrate(spectrum, feeds(16, 0), environment=environment)
    made = quantize(spectrum, ranges, environment=environment, out=tmp_path / "q.onnx", held_back=feeds(16, 1))
    step = next(step for step in made.steps if step.name == "border-scaling")
    assert step.kept
    assert step.after_db > step.before_db + 1
    assert REASON in dict(made.kept_float).values()
    without = quantize(
        spectrum, ranges, environment=environment, out=tmp_path / "w.onnx", held_back=feeds(16, 1), recover=["rounding"]
    )
    assert REASON not in dict(without.kept_float).values()


def test_channels_that_are_alike_are_left_alone(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder(4)
    net.add("Mul", ["x", "x"], "squares")
    net.add("Sqrt", ["squares"], "magnitudes")
    net.conv("magnitudes", "y", (8, 16, 3), pads=[1, 1])
    path = tmp_path / "alike.onnx"
    onnx.save(net.model({"x": ["N", 16, 20]}, {"y": ["N", 8, 20]}), path)
    made = quantize(path, calibrate(path, feeds(8, 0), environment="fpga"), environment="fpga", out=tmp_path / "q.onnx")
    assert "border-scaling" not in {step.name for step in made.steps}


@pytest.mark.parametrize("environment", ["gpu", "fpga"])
def test_what_int8_layers_made_is_no_border(builder: Callable[..., Any], tmp_path: Path, environment: str) -> None:
    # On gpu the concatenation and the pooling between int8 layers are float; the convolutions before them are not.
    net = builder(4)
    for name, gain in (("loud", 1.0), ("quiet", 1e-3)):
        net.constant(f"{name}.w", (net.rng.normal(size=(8, 16, 3)) * gain).astype(np.float32))
        net.add("Conv", ["x", f"{name}.w"], name, pads=[1, 1])
        net.add("Relu", [name], f"{name}.relu")
    net.add("Concat", ["loud.relu", "quiet.relu"], "both", axis=1)
    net.add("AveragePool", ["both"], "pooled", kernel_shape=[2], strides=[2])
    net.conv("pooled", "y", (8, 16, 3), pads=[1, 1])
    path = tmp_path / "no_border.onnx"
    onnx.save(net.model({"x": ["N", 16, 20]}, {"y": ["N", 8, None]}), path)
    ranges = calibrate(path, feeds(8, 0), environment=environment)
    made = quantize(path, ranges, environment=environment, out=tmp_path / "q.onnx")
    assert "border-scaling" not in {step.name for step in made.steps}


def test_a_layer_that_reads_only_silence_is_left_alone(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder(4)
    net.add("Mul", ["x", "x"], "squares")
    net.constant("one", np.eye(1, 16, dtype=np.float32).reshape(1, -1, 1))
    net.add("Mul", ["squares", "one"], "single")
    net.add("Sqrt", ["single"], "magnitudes")
    weight = net.rng.normal(size=(8, 16, 3)).astype(np.float32)
    weight[:, 0] = 0  # of the only channel that is not silent
    net.constant("w", weight)
    net.add("Conv", ["magnitudes", "w"], "first", pads=[1, 1])
    net.add("Add", ["first", net.constant("b", np.ones((1, 8, 1), np.float32))], "y")
    path = tmp_path / "silent.onnx"
    onnx.save(net.model({"x": ["N", 16, 20]}, {"y": ["N", 8, 20]}), path)
    made = quantize(path, calibrate(path, feeds(8, 0), environment="fpga"), environment="fpga", out=tmp_path / "q.onnx")
    assert made.quantized_layers > 0
    assert "border-scaling" not in {step.name for step in made.steps}
