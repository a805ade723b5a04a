"""Types, scales and places of Q/DQ pairs follow each environment's rule book."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto

from harness.errors import UserError
from harness.quantize import QuantizedModel, calibrate, prepare, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.rulebooks import RULE_BOOKS, rule_book

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]


def make(
    path: Path, out: Path, environment: str, data: np.ndarray, method: str = "minmax", exclude: tuple[str, ...] = ()
) -> QuantizedModel:
    name = read_model(path).graph.input[0].name
    calibration = calibrate(path, [{name: data}], environment=environment)
    return quantize(path, calibration, environment=environment, method=method, exclude=exclude, out=out)


def constants_into(model: ModelProto, node: NodeProto, slot: int) -> tuple[Any, Any, Any, int | None]:
    """(integers, scale, zero point, axis) behind a DequantizeLinear."""
    graph = Graph(model)
    marker = graph.producer[node.input[slot]]
    assert marker.op_type == "DequantizeLinear"
    axis = next((entry.i for entry in marker.attribute if entry.name == "axis"), None)
    values, scale, zero = (graph.array(name) for name in marker.input)
    return values, scale, zero, axis


def activation_parameters(model: ModelProto) -> list[tuple[Any, Any]]:
    graph = Graph(model)
    return [(graph.array(n.input[1]), graph.array(n.input[2])) for n in graph.nodes if n.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_types_and_scales_follow_the_rule_book(
    environment: str, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    out = make(branched, tmp_path / "q.onnx", environment, images(16))
    model = read_model(out.path)
    onnx.checker.check_model(model, full_check=True)
    node = next(node for node in model.graph.node if node.name == "depthwise")
    weight, scale, zero, axis = constants_into(model, node, 1)
    assert weight.dtype == np.int8
    assert not np.any(zero)
    if environment in {"cpu", "gpu"}:
        assert (axis, scale.shape) == (0, (8,))
        assert np.abs(weight.astype(int)).reshape(8, -1).max(axis=1).tolist() == [127] * 8
    else:
        assert scale.shape == ()
        assert np.frexp(scale)[0] == 0.5
    if environment == "gpu":
        assert Graph(model).array(node.input[2]).dtype == np.float32
    else:
        bias, bias_scale, _, _ = constants_into(model, node, 2)
        assert bias.dtype == (np.int8 if environment == "fpga" else np.int32)
        if environment == "fpga":
            assert np.frexp(bias_scale)[0] == 0.5
        else:
            _, in_scale, _, _ = constants_into_activation(model, node)
            assert np.allclose(bias_scale, in_scale * scale)
    for act_scale, act_zero in activation_parameters(model):
        assert act_scale.shape == act_zero.shape == ()
        assert act_zero.dtype == {"cpu": np.uint8, "gpu": np.int8, "fpga": np.int8}.get(environment, act_zero.dtype)
        if environment != "cpu":
            assert act_zero == 0
        if environment in {"fpga", "host"}:
            assert np.frexp(act_scale)[0] == 0.5


def constants_into_activation(model: ModelProto, node: NodeProto) -> tuple[Any, Any, Any, None]:
    graph = Graph(model)
    marker = graph.producer[node.input[0]]
    return None, graph.array(marker.input[1]), graph.array(marker.input[2]), None


def test_host_takes_unsigned_bytes_where_nothing_is_negative(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    model = read_model(make(branched, tmp_path / "q.onnx", "host", images(16)).path)
    graph = Graph(model)
    kinds = {n.input[0]: graph.array(n.input[2]).dtype for n in graph.nodes if n.op_type == "QuantizeLinear"}
    assert kinds["image"] == np.int8
    assert kinds["relu1"] == np.uint8
    assert kinds["clip"] == np.uint8


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_concatenation_and_pooling_keep_one_scale(
    environment: str, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    model = read_model(make(branched, tmp_path / "q.onnx", environment, images(16)).path)
    graph = Graph(model)
    scales = {n.input[0]: float(graph.array(n.input[1])) for n in graph.nodes if n.op_type == "QuantizeLinear"}
    if environment == "gpu":
        # Only in front of int8 layers: nothing between a convolution and its ReLU, nothing at a concatenation.
        assert not {"bn", "relu1", "concat", "left", "right"} & scales.keys()
        assert {"image", "pool", "clip", "relu2"} <= scales.keys()
    else:
        assert scales["relu1"] == scales["pool"]
        assert scales["left"] == scales["right"] == scales["concat"]
        assert not {"bn", "depthwise", "sum"} & scales.keys()  # fused into the activation function after them


def test_gpu_quantizes_the_shortcut_of_a_residual_sum_only(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    model = read_model(make(branched, tmp_path / "q.onnx", "gpu", images(16)).path)
    graph = Graph(model)
    add = graph.node("sum")
    makers = [graph.producer[name].op_type for name in add.input]
    assert makers == ["Conv", "DequantizeLinear"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_stays_float_has_a_reason(
    environment: str, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    out = make(branched, tmp_path / "q.onnx", environment, images(16))
    prepare(branched, tmp_path / "prepared.onnx")
    layers = {node.name for node in read_model(tmp_path / "prepared.onnx").graph.node}
    kept = dict(out.kept_float)
    assert "exponentials" in kept["scores"]
    assert out.quantized_layers + len(kept) == len(layers)
    assert kept.keys() <= layers
    assert all(reason and "\n" not in reason for reason in kept.values())
    if environment in {"fpga", "host"}:
        assert kept.keys() == {"scores"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_notes(environment: str, branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    out = make(branched, tmp_path / "q.onnx", environment, images(16))
    assert ("QDQ arithmetic, not bit-exact" in out.notes) == (environment != "cpu")
    assert out.environment == environment
    assert out.disabled_optimizers == ("WeightBiasQuantization",)  # softmax stays float


def test_rule_books_are_complete() -> None:
    for environment, rules in RULE_BOOKS.items():
        assert rules.environment == environment
        assert rules.methods
        assert not set(rules.kinds) & set(rules.float_reasons)
    with pytest.raises(UserError, match="did you mean fpga"):
        rule_book("fgpa")
