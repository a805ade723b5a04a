"""Operators that say the same take one form, and the network computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize.graph import Graph
from harness.quantize.preparation import prepare_model

Run = Callable[..., Any]


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    once = prepare_model(model, "network").model
    onnx.checker.check_model(once, full_check=True)
    again = prepare_model(once, "network").model
    assert again.graph.node == once.graph.node
    return once


def unchanged(before: onnx.ModelProto, after: onnx.ModelProto, run: Run, shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    name = before.graph.input[0].name
    for first, second in zip(run(before, {name: data}), run(after, {name: data}), strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("own", [{}, {"pads": [1, 0, 0, 2]}, {"auto_pad": "VALID"}])
def test_zeros_before_a_convolution_are_its_padding(own: dict[str, Any], builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("sizes", np.array([0, 0, 1, 2, 0, 0, 0, 1]))
    net.add("Pad", ["x", "sizes"], "padded")
    net.conv("padded", "y", (4, 3, 3, 3), **own)
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": None})
    after = prepared(model)
    assert kinds(after) == ["Conv"]
    assert prepare_model(model, "network").folded == {"padded": "y"}
    unchanged(model, after, run, (2, 3, 8, 8))


def test_zeros_before_an_average_count_in_it(builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("sizes", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    net.constant("zero", np.float32(0))
    net.add("Pad", ["x", "sizes", "zero"], "padded")
    net.add("AveragePool", ["padded"], "y", kernel_shape=[3, 3])
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": None})
    after = prepared(model)
    assert kinds(after) == ["AveragePool"]
    unchanged(model, after, run, (2, 3, 8, 8))


@pytest.mark.parametrize(
    ("sizes", "value", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.5, "constant"),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0, "edge"),
        ([0, 0, -1, 1, 0, 0, 1, 1], 0, "constant"),
        ([0, 1, 0, 0, 0, 0, 0, 0], 0, "constant"),
    ],
)
def test_other_padding_stays(sizes: list[int], value: float, mode: str, builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("sizes", np.array(sizes))
    net.constant("value", np.float32(value))
    net.add("Pad", ["x", "sizes", "value"], "padded", mode=mode)
    net.conv("padded", "y", (4, 3 + sizes[1], 3, 3))
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": None})
    after = prepared(model)
    assert kinds(after) == ["Pad", "Conv"]
    unchanged(model, after, run, (2, 3, 8, 8))


def test_padding_that_others_read_stays(builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("sizes", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    net.add("Pad", ["x", "sizes"], "padded")
    net.conv("padded", "y", (4, 3, 3, 3))
    net.conv("padded", "z", (4, 3, 3, 3))
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": None, "z": None})
    assert kinds(prepared(model)) == ["Pad", "Conv", "Conv"]


@pytest.mark.parametrize(("opset", "keepdims"), [(13, 1), (13, 0), (18, 1), (18, 0)])
def test_a_mean_over_the_image_is_a_pool(opset: int, keepdims: int, builder: type[Any], run: Run) -> None:
    net = builder()
    if opset < 18:
        net.add("ReduceMean", ["x"], "y", name="mean", axes=[-1, 2], keepdims=keepdims)
    else:
        net.constant("axes", np.array([-1, 2]))
        net.add("ReduceMean", ["x", "axes"], "y", name="mean", keepdims=keepdims)
    model = net.model({"x": ["N", 3, 8, 8]}, {"y": None}, opset=opset)
    after = prepared(model)
    assert kinds(after) == ["GlobalAveragePool"] + ["Squeeze"] * (not keepdims)
    assert after.graph.node[0].name == "mean"
    unchanged(model, after, run, (2, 3, 8, 8))


def test_other_means_stay(builder: type[Any]) -> None:
    net = builder()
    net.add("ReduceMean", ["x"], "y", axes=[1, 2, 3])
    assert kinds(prepared(net.model({"x": ["N", 3, 8, 8]}, {"y": None}))) == ["ReduceMean"]


def test_a_resize_by_one_goes(builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("scales", np.ones(4, np.float32))
    net.add("Resize", ["x", "", "scales"], "same", mode="linear")
    net.add("Relu", ["same"], "y")
    model = net.model({"x": ["N", 3, 4, 4]}, {"y": None})
    after = prepared(model)
    assert kinds(after) == ["Relu"]
    assert prepare_model(model, "network").removed == {"same": "x"}
    unchanged(model, after, run, (2, 3, 4, 4))


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_a_single_pixel_is_picked(coordinates: str, builder: type[Any], run: Run) -> None:
    net = builder()
    net.constant("scales", np.array([1, 1, 33, 7], np.float32))
    net.add("Resize", ["x", "", "scales"], "y", mode="linear", coordinate_transformation_mode=coordinates)
    model = net.model({"x": ["N", 3, 1, 1]}, {"y": None})
    after = prepared(model)
    assert {e.name: e.s for e in after.graph.node[0].attribute}["mode"] == b"nearest"
    unchanged(model, after, run, (2, 3, 1, 1))


@pytest.mark.parametrize("offset", [(5,), (1,), (1, 5), (), None])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_is_plain(offset: tuple[int, ...] | None, transposed: int, builder: type[Any], run: Run) -> None:
    net = builder()
    inputs = ["x", net.weights("w", *((5, 3) if transposed else (3, 5)))]
    if offset is not None:
        inputs.append(net.constant("c", net.rng.normal(size=offset).astype(np.float32)))
    net.add("Gemm", inputs, "y", alpha=0.5, beta=3.0, transB=transposed)
    model = net.model({"x": ["N", 3]}, {"y": None})
    after = prepared(model)
    node = after.graph.node[0]
    assert {entry.name for entry in node.attribute} <= {"transA", "transB"}
    if offset is not None:
        assert Graph(after).shape(node.input[2]) == (5,)
    unchanged(model, after, run, (4, 3))
