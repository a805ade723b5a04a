"""What the int8 networks compute: one convolution against numpy, and every operator against its float self."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from harness.quantize import QuantizedModel, calibrate, quantize
from harness.quantize.graph import read_model
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]


def make(
    path: Path, out: Path, environment: str, data: np.ndarray, method: str = "minmax", exclude: tuple[str, ...] = ()
) -> QuantizedModel:
    name = read_model(path).graph.input[0].name
    calibration = calibrate(path, [{name: data}], environment=environment)
    return quantize(path, calibration, environment=environment, method=method, exclude=exclude, out=out)


def simulate(x: np.ndarray, w: np.ndarray, b: np.ndarray, y_range: tuple[float, float], environment: str) -> np.ndarray:
    """One 1x1 convolution with ReLU by each environment's published rules, written out in numpy, no shared code."""

    def symmetric(value: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
        result: np.ndarray = np.clip(np.rint(value / scale), -128, 127) * scale
        return result

    def affine(value: np.ndarray, low: float, high: float) -> np.ndarray:
        low, high = min(low, 0), max(high, 0)
        scale = np.float32((high - low) / 255)
        zero = np.rint(-low / scale)
        result: np.ndarray = (np.clip(np.rint(value / scale) + zero, 0, 255) - zero) * scale
        return result

    def two(extent: float) -> float:
        return float(2.0 ** np.ceil(np.log2(extent)))

    peak = np.abs(w).max(axis=1, keepdims=True)
    if environment == "gpu":
        xq = symmetric(x, float(np.float32(np.abs(x).max() / 127)))
        floats: np.ndarray = np.maximum(np.einsum("oi,nihw->nohw", symmetric(w, peak / 127), xq) + b[:, None, None], 0)
        return floats
    if environment == "cpu":
        xq = affine(x, x.min(), x.max())
        y = np.maximum(np.einsum("oi,nihw->nohw", symmetric(w, peak / 127), xq) + b[:, None, None], 0)
        return affine(y, *y_range)
    if environment == "host":
        # Smallest power of two whose 127 steps (255 where nothing is negative) hold the range after rounding.
        xq = symmetric(x, two(np.abs(x).max() / 127.5))
        scale = two(np.abs(w).max() / 127.5)
        wq = np.copysign(np.floor(np.abs(w) / scale + 0.5), w) * scale
        y = np.maximum(np.einsum("oi,nihw->nohw", wq, xq) + b[:, None, None], 0)
        out = two(y_range[1] / 255.5)
        unsigned: np.ndarray = np.clip(np.rint(y / out), 0, 255) * out
        return unsigned

    def fix(value: np.ndarray) -> float:
        return two(max(value.min() / -128.5, value.max() / 127.5))

    def searched(value: np.ndarray) -> np.ndarray:
        def rounded(scale: float) -> np.ndarray:
            result: np.ndarray = np.clip(np.copysign(np.floor(np.abs(value) / scale + 0.5), value), -128, 127) * scale
            return result

        first = fix(value)
        return min((rounded(first / 2**k) for k in range(5)), key=lambda done: float(((done - value) ** 2).sum()))

    xq = symmetric(x, fix(x))
    y = np.maximum(np.einsum("oi,nihw->nohw", searched(w), xq) + searched(b)[:, None, None], 0)
    return symmetric(y, two(y_range[1] / 127.5))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_one_convolution_equals_numpy(
    environment: str, builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    net = builder(7)
    w, b = net.rng.normal(size=(6, 4)).astype(np.float32), net.rng.normal(size=6).astype(np.float32)
    net.constant("w", w.reshape(6, 4, 1, 1))
    net.constant("b", b)
    net.add("Conv", ["x", "w", "b"], "conv")
    net.add("Relu", ["conv"], "y")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4, 5, 5]}, {"y": ["N", 6, 5, 5]}), path)
    x = net.rng.normal(size=(8, 4, 5, 5)).astype(np.float32)
    y = run(path, {"x": x})[0]
    calibration = calibrate(path, [{"x": x}], environment=environment)
    # Plain rounding is compared.
    out = quantize(path, calibration, environment=environment, method="minmax", out=tmp_path / "q.onnx", recover=())
    expected = simulate(
        x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), (y.min(), y.max()), environment
    )
    got = run(out.path, {"x": x})[0]
    step = np.unique(np.abs(np.diff(np.unique(expected.round(9)))))[0] if environment != "gpu" else 1e-3
    different = np.abs(got - expected) > 1e-5
    # Sums in float32 land on the other side of a tie now and then: one step, rarely.
    assert different.mean() < 0.01
    assert np.abs(got - expected).max() < 1.01 * max(step, 1e-3) + 1e-5


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_outputs_stay_near_the_float_network(
    environment: str, branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    out = make(branched, tmp_path / "q.onnx", environment, images(32), method="auto")
    data = images(64, seed=9)
    model = read_model(out.path)
    model.graph.output.append(onnx.ValueInfoProto(name="logits"))
    floating = read_model(branched)
    floating.graph.output.append(onnx.ValueInfoProto(name="logits"))
    reference, other = (run(m, {"image": data}, ["logits"])[0] for m in (floating, model))
    assert sqnr_db(reference, other) > (20 if environment in {"cpu", "gpu"} else 12)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    "op",
    ["conv1d", "group", "transpose", "transpose-group", "gemm", "gemm-alpha", "matmul", "matmul-both", "matmul-left",
     "mul", "add-constant", "average", "leaky", "sigmoid", "hardswish", "clip6", "split", "resize", "gather"],
)  # fmt: skip
def test_operators_run_and_stay_near(
    op: str, environment: str, builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    net = builder(11)
    x: list[int | str] = ["N", 4, 6, 6]
    net.conv("x", "before", (4, 4, 1, 1))
    if op in {"conv1d", "gemm", "gemm-alpha", "matmul", "matmul-both", "matmul-left"}:
        net.constant("rows", np.array([-1, 4] if op.startswith("gemm") else [0, 4, 36], np.int64))
        net.add("Reshape", ["before", "rows"], "flat")
    if op == "conv1d":
        net.conv("flat", "y", (5, 4, 3))
    elif op == "group":
        net.conv("before", "y", (6, 2, 3, 3), group=2)
    elif op.startswith("transpose"):
        group = 2 if op.endswith("group") else 1
        net.add("ConvTranspose", ["before", net.weights("w", 4, 3, 2, 2)], "y", strides=[2, 2], group=group)
    elif op == "gemm":
        net.add("Gemm", ["flat", net.weights("w", 4, 5), net.weights("b", 5)], "y")
    elif op == "gemm-alpha":
        net.add("Gemm", ["flat", net.weights("w", 5, 4), net.weights("b", 5)], "y", transB=1, alpha=0.5, beta=2.0)
    elif op == "matmul":
        net.add("MatMul", ["flat", net.weights("w", 36, 7)], "product")
        net.add("Add", [net.weights("b", 7), "product"], "y")
    elif op == "matmul-both":
        net.add("Transpose", ["flat"], "turned", perm=[0, 2, 1])
        net.add("MatMul", ["flat", "turned"], "product")
        net.conv("product", "y", (2, 4, 1))
    elif op == "matmul-left":
        net.add("MatMul", [net.weights("w", 3, 4), "flat"], "y")
    elif op == "mul":
        net.conv("x", "gate", (4, 4, 1, 1))
        net.add("Mul", ["before", "gate"], "product")
        net.conv("product", "y", (2, 4, 1, 1))
    elif op == "add-constant":
        net.add("Add", ["before", net.weights("c", 1, 1, 6, 6)], "sum")
        net.conv("sum", "y", (2, 4, 1, 1))
    elif op == "average":
        net.add("AveragePool", ["before"], "pooled", kernel_shape=[2, 2], strides=[2, 2])
        net.conv("pooled", "y", (2, 4, 1, 1))
    elif op == "split":
        net.nodes.append(helper.make_node("Split", ["before"], ["one", "two"], name="split", axis=1))
        net.add("Add", ["one", "two"], "sum")
        net.conv("sum", "y", (2, 2, 1, 1))
    elif op == "resize":
        net.constant("scales", np.array([1, 1, 2, 2], np.float32))
        net.add("Resize", ["before", "", "scales"], "big", mode="nearest")
        net.conv("big", "y", (2, 4, 1, 1))
    elif op == "gather":
        net.constant("order", np.array([3, 1, 0, 2], np.int64))
        net.add("Gather", ["before", "order"], "shuffled", axis=1)
        net.conv("shuffled", "y", (2, 4, 1, 1))
    else:
        kind = {"leaky": "LeakyRelu", "sigmoid": "Sigmoid", "hardswish": "HardSwish", "clip6": "Clip"}[op]
        bounds = [net.constant("lo", np.array(-1, np.float32)), net.constant("hi", np.array(1, np.float32))]
        net.add(kind, ["before", *(bounds if op == "clip6" else [])], "act")
        net.conv("act", "y", (2, 4, 1, 1))
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": x}, {"y": None}, opset=14), path)
    data = net.rng.normal(size=(12, 4, 6, 6)).astype(np.float32)
    out = make(path, tmp_path / "q.onnx", environment, data)
    onnx.checker.check_model(read_model(out.path), full_check=True)
    assert out.quantized_layers >= 2
    reference = run(path, {"x": data})[0]
    plain = run(out.path, {"x": data})[0]
    assert sqnr_db(reference, plain) > (25 if environment in {"cpu", "gpu"} else 18)
    # And through the runtime's own int8 kernels.
    fused = run(out.path, {"x": data}, optimized=True)[0]
    assert sqnr_db(reference, fused) > (25 if environment in {"cpu", "gpu"} else 18)
