"""Choices for single layers change that layer and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.quantize import LayerOverride, Quantizer, calibrate, quantize
from harness.quantize.graph import Graph, read_model

Parameters = dict[str, tuple[Any, Any]]


def made(
    path: Path, work: Path, environment: str, data: np.ndarray, overrides: dict[str, Any]
) -> tuple[Parameters, dict[str, Any]]:
    """(tensor → scale, zero point of activations; layer → weight scales) of the int8 network."""
    calibration = calibrate(path, [{"image": data}], environment=environment)
    out = work / "q.onnx"
    quantize(path, calibration, environment=environment, method="minmax", out=out, overrides=overrides, recover=())
    graph = Graph(read_model(out))
    scales = {
        node.input[0]: (graph.array(node.input[1]), graph.array(node.input[2]))
        for node in graph.nodes
        if node.op_type == "QuantizeLinear"
    }
    weights = {
        node.name: graph.array(graph.producer[node.input[1]].input[1])
        for node in graph.nodes
        if node.op_type in {"Conv", "Gemm"}
    }
    return scales, weights


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_one_layers_method_changes_its_scale_alone(
    environment: str, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    data = images(64)
    data[0, 0, 0, 0] = 40.0  # one outlier, which percentile gives up
    before, _ = made(branched, tmp_path, environment, data, {})
    after, _ = made(branched, tmp_path, environment, data, {"image": {"method": "mse"}})
    assert after["image"][0] < before["image"][0]
    assert {name for name in before if before[name] != after[name]} == {"image"}


def test_a_fused_layers_result_is_that_of_the_whole(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    before, _ = made(branched, tmp_path, "cpu", images(16), {})
    after, _ = made(branched, tmp_path, "cpu", images(16), {"depthwise": LayerOverride(activation="symmetric")})
    assert before["clip"][1] == 0
    assert after["clip"][1] == 128
    assert after["clip"][1].dtype == np.uint8  # the kernels want U8·S8
    assert {name for name in before if before[name] != after[name]} == {"clip"}


def test_weights_per_tensor_for_one_layer(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    _, before = made(branched, tmp_path, "gpu", images(16), {})
    _, after = made(branched, tmp_path, "gpu", images(16), {"left": {"weights": "per-tensor"}})
    assert before["left"].shape == (4,)
    assert after["left"].shape == ()
    assert after["left"] == before["left"].max()
    assert after["right"].shape == (4,)


def test_a_folded_normalization_stands_for_its_convolution(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    _, weights = made(branched, tmp_path, "cpu", images(16), {"bn": {"weights": "per-tensor"}})
    assert weights["stem"].shape == ()


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        ("cpu", {"depthwize": {"method": "mse"}}, "did you mean 'depthwise'"),
        ("cpu", {"stem": {"methods": "mse"}}, "unknown field 'methods'"),
        ("cpu", {"stem": {"method": "best"}}, "choose one of minmax"),
        ("cpu", {"stem": {"weights": "both"}}, "per-tensor or per-channel"),
        ("cpu", {"stem": "mse"}, "needs fields"),
        ("cpu", {"pool": {"weights": "per-tensor"}}, "no int8 weights"),
        ("cpu", {"scores": {"method": "mse"}}, "not quantized"),
        ("cpu", {"left": {"method": "mse"}, "right": {"method": "percentile"}}, "share one scale"),
        ("gpu", {"image": {"activation": "asymmetric"}}, "zero point is always 0"),
        ("fpga", {"stem": {"weights": "per-channel"}}, "one power of two"),
    ],
)
def test_what_cannot_be_is_one_line(
    environment: str,
    overrides: dict[str, Any],
    message: str,
    branched: Path,
    tmp_path: Path,
    images: Callable[..., Any],
) -> None:
    with pytest.raises(UserError, match=message) as failure:
        made(branched, tmp_path, environment, images(4), overrides)
    assert "\n" not in str(failure.value)


def test_the_class_takes_them_too(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    quantizer = Quantizer(branched, environment="gpu")
    quantizer.calibrate([{"image": images(16)}], method="minmax")
    plain = quantizer.quantize(tmp_path / "a.onnx", method="minmax")
    own = quantizer.quantize(tmp_path / "b.onnx", method="minmax", overrides={"left": {"weights": "per-tensor"}})
    assert plain.digest != own.digest
