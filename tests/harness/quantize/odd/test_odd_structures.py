"""Graphs that are odd but valid, one property each: quantized like any other, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.errors import UserError
from tests.harness.quantize.odd.networks import ENVIRONMENTS, Quantized, close, image


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_weights_shared_by_two_layers(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.weights("w", 4, 4, 3, 3)
    net.add("Conv", ["x", "w"], "a", pads=[1] * 4)
    net.add("Relu", ["a"], "r")
    net.add("Conv", ["r", "w"], "y", pads=[1] * 4)
    model = net.model({"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]})
    feed = {"x": np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)}
    assert close(run(model, feed)[0], run(quantized(model, feed, environment).path, feed)[0])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_layers_whose_results_nothing_reads_disappear(
    environment: str, builder: Callable[..., Any], quantized: Quantized
) -> None:
    net = builder()
    net.conv("x", "y", (2, 3, 3, 3))
    net.conv("x", "idle", (2, 3, 3, 3))
    net.add("Relu", ["idle"], "idle_too")
    result = quantized(net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 2, 4, 4]}), image(), environment)
    assert result.quantized_layers == 1
    assert not any("idle" in node.name for node in onnx.load(result.path).graph.node)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_optional_output_that_nothing_reads(
    environment: str, builder: Callable[..., Any], quantized: Quantized
) -> None:
    net = builder()
    net.conv("x", "conv", (2, 3, 3, 3))
    net.add("MaxPool", ["conv"], "pool", kernel_shape=[2, 2])
    net.nodes[-1].output.append("indices")
    net.conv("pool", "y", (2, 2, 1, 1))
    assert (
        quantized(net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 2, 3, 3]}), image(), environment).quantized_layers == 3
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_network_without_layers_and_outputs_that_are_inputs_or_constants(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.constant("table", np.arange(6, dtype=np.float32))
    empty = net.model({"x": ["N", 3]}, {"x": ["N", 3], "table": [6]})
    feed = {"x": np.ones((2, 3), np.float32)}
    result = quantized(empty, feed, environment)
    assert result.quantized_layers == 0
    assert np.array_equal(run(result.path, feed)[1], np.arange(6))

    net = builder()
    net.constant("table", np.arange(6, dtype=np.float32))
    net.conv("x", "y", (2, 3, 3, 3))
    model = net.model({"x": ["N", 3, 6, 6]}, {"x": ["N", 3, 6, 6], "y": ["N", 2, 4, 4], "table": [6]})
    result = quantized(model, image(), environment)
    first, second, third = run(result.path, image())
    assert np.array_equal(first, image()["x"])  # what the user gave comes back as it was
    assert close(run(model, image())[1], second)
    assert np.array_equal(third, np.arange(6))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_graph_with_no_outputs_at_all(environment: str, builder: Callable[..., Any], quantized: Quantized) -> None:
    net = builder()
    net.conv("x", "y", (2, 3, 3, 3))
    model = net.model({"x": ["N", 3, 6, 6]}, {})
    with pytest.raises(UserError) as caught:
        quantized(model, image(), environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_output_that_other_layers_read(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "features", (4, 3, 3, 3))
    net.add("Relu", ["features"], "active")
    net.conv("active", "y", (2, 4, 1, 1))
    model = net.model({"x": ["N", 3, 6, 6]}, dict.fromkeys(("features", "active", "y")))
    result = quantized(model, image(), environment)
    outputs = run(result.path, image())
    assert [value.name for value in onnx.load(result.path).graph.output] == ["features", "active", "y"]
    for reference, found in zip(run(model, image()), outputs, strict=True):
        assert close(reference, found)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_bodies_that_read_the_outer_scope(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["conv"], [f"{op}.out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}.out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Abs")
    ]
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3))
    net.add("ReduceMax", ["x"], "peak", keepdims=0)
    net.constant("limit", np.array(0, np.float32))
    net.add("Greater", ["peak", "limit"], "positive")
    net.add("If", ["positive"], "either", then_branch=branches[0], else_branch=branches[1])
    net.conv("conv", "other", (4, 4, 1, 1))
    net.add("Add", ["either", "other"], "sum")
    net.conv("sum", "y", (2, 4, 1, 1))
    model = net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 2, 4, 4]})
    result = quantized(model, image(), environment)
    assert any("bodies stay float" in note for note in result.notes)
    assert close(run(model, image())[0], run(result.path, image())[0], 15)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_normalization_and_dropout_left_in_training_mode(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3))
    for name, value in {"s": 1, "b": 0, "m": 0, "v": 1}.items():
        net.constant(name, np.full(4, value, np.float32))
    net.add("BatchNormalization", ["conv", "s", "b", "m", "v"], "bn", training_mode=1)
    net.nodes[-1].output.extend(["mean.new", "var.new"])
    net.constant("ratio", np.array(0.5, np.float32))
    net.constant("training", np.array(True))
    net.add("Dropout", ["bn", "ratio", "training"], "drop", seed=1)
    net.conv("drop", "y", (2, 4, 1, 1))
    model = net.model({"x": ["N", 3, 6, 6]}, {"y": None}, opset=15)
    result = quantized(model, image(), environment)
    kept = [node.op_type for node in onnx.load(result.path).graph.node]
    assert "BatchNormalization" in kept  # its statistics are those of the batch: nothing to fold
    assert "Dropout" in kept
    assert np.isfinite(run(result.path, image())[0]).all()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_dynamic_axes_stay_dynamic(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3), pads=[1] * 4)
    net.add("Relu", ["conv"], "relu")
    net.conv("relu", "y", (2, 4, 1, 1))
    axes: list[int | str] = ["batch", 3, "height", "width"]
    result = quantized(net.model({"x": axes}, {"y": ["batch", 2, "height", "width"]}), image(), environment)
    graph = onnx.load(result.path).graph
    assert [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "height", "width"]
    assert [dim.dim_param for dim in graph.output[0].type.tensor_type.shape.dim] == ["batch", "", "height", "width"]
    assert run(result.path, {"x": np.zeros((3, 3, 9, 5), np.float32)})[0].shape == (3, 2, 9, 5)


def test_a_network_without_inputs(builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]) -> None:
    net = builder()
    net.constant("table", np.arange(4, dtype=np.float32))
    net.add("Neg", ["table"], "y")
    result = quantized(net.model({}, {"y": [4]}), {})
    assert result.quantized_layers == 0
    assert np.array_equal(run(result.path, {})[0], -np.arange(4))
