"""A transformer block: every matrix product is int8, softmax and normalization are float with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from harness.quantize import QuantizedModel, calibrate, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]
TOKENS, WIDTH, HEADS = 12, 32, 4


def block(builder: type[Any], path: Path, *, written_out: bool, masked: bool) -> Path:
    """Attention and a two-layer perceptron, each behind a normalization, with residual sums.

    Args:
        written_out: normalization, GELU and softmax in single operators, as older exporters write them.
        masked: -10000 is added to the scores of later tokens.
    """
    net = builder(11)
    if written_out:
        net.constant("two", np.float32(2))
        net.constant("eps", np.float32(1e-5))

    def dense(x: str, name: str, rows: int, columns: int) -> str:
        weights = net.rng.normal(size=(rows, columns)).astype(np.float32) / np.float32(rows**0.5)
        net.add("MatMul", [x, net.constant(f"{name}.w", weights)], name)
        return str(net.add("Add", [name, net.weights(f"{name}.b", columns, gain=0.1)], f"{name}.sum"))

    def normalized(x: str, name: str) -> str:
        scale = net.constant(f"{name}.s", net.rng.uniform(0.5, 1.5, WIDTH).astype(np.float32))
        shift = net.weights(f"{name}.b", WIDTH, gain=0.1)
        if not written_out:
            return str(net.add("LayerNormalization", [x, scale, shift], name))
        net.add("ReduceMean", [x], f"{name}.mean", axes=[-1])
        net.add("Sub", [x, f"{name}.mean"], f"{name}.centred")
        net.add("Pow", [f"{name}.centred", "two"], f"{name}.square")
        net.add("ReduceMean", [f"{name}.square"], f"{name}.variance", axes=[-1])
        net.add("Add", [f"{name}.variance", "eps"], f"{name}.plus")
        net.add("Sqrt", [f"{name}.plus"], f"{name}.root")
        net.add("Div", [f"{name}.centred", f"{name}.root"], name)
        net.add("Mul", [name, scale], f"{name}.scaled")
        return str(net.add("Add", [f"{name}.scaled", shift], f"{name}.shifted"))

    def heads(x: str, name: str, order: list[int]) -> str:
        net.add("Reshape", [x, "split.shape"], f"{name}.split")
        return str(net.add("Transpose", [f"{name}.split"], f"{name}.heads", perm=order))

    net.constant("split.shape", np.array([0, TOKENS, HEADS, WIDTH // HEADS]))
    net.constant("join.shape", np.array([0, TOKENS, WIDTH]))
    first = normalized("x", "norm1")
    query = heads(dense(first, "q", WIDTH, WIDTH), "q", [0, 2, 1, 3])
    key = heads(dense(first, "k", WIDTH, WIDTH), "k", [0, 2, 3, 1])
    value = heads(dense(first, "v", WIDTH, WIDTH), "v", [0, 2, 1, 3])
    net.add("MatMul", [query, key], "qk")
    net.add("Mul", ["qk", net.constant("root", np.float32((WIDTH / HEADS) ** -0.5))], "scaled")
    scores = "scaled"
    if masked:
        mask = np.triu(np.full((TOKENS, TOKENS), -10000, np.float32), 1)
        scores = net.add("Add", ["scaled", net.constant("mask", mask)], "masked")
    if written_out:
        net.add("ReduceMax", [scores], "largest", axes=[-1])
        net.add("Sub", [scores, "largest"], "shifted")
        net.add("Exp", ["shifted"], "exp")
        net.add("ReduceSum", ["exp", net.constant("last", np.array([-1]))], "total")
        net.add("Div", ["exp", "total"], "softmax")
    else:
        net.add("Softmax", [scores], "softmax", axis=-1)
    net.add("MatMul", ["softmax", value], "pv")
    net.add("Transpose", ["pv"], "tokens", perm=[0, 2, 1, 3])
    net.add("Reshape", ["tokens", "join.shape"], "joined")
    net.add("Add", ["x", dense("joined", "o", WIDTH, WIDTH)], "residual1")
    up = dense(normalized("residual1", "norm2"), "up", WIDTH, 4 * WIDTH)
    if written_out:
        net.add("Div", [up, net.constant("root2", np.float32(2**0.5))], "gelu.in")
        net.add("Erf", ["gelu.in"], "erf")
        net.add("Add", ["erf", net.constant("one", np.float32(1))], "gelu.plus")
        net.add("Mul", [up, "gelu.plus"], "gelu.product")
        net.add("Mul", ["gelu.product", net.constant("half", np.float32(0.5))], "gelu")
    else:
        net.add("Gelu", [up], "gelu")
    net.add("Add", ["residual1", dense("gelu", "down", 4 * WIDTH, WIDTH)], "y")
    model = net.model({"x": ["N", TOKENS, WIDTH]}, {"y": None}, opset=13 if written_out else 20, ir_version=9)
    onnx.save(model, path)
    return path


def tokens(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, TOKENS, WIDTH)).astype(np.float32)


def made(path: Path, environment: str, out: Path) -> QuantizedModel:
    calibration = calibrate(path, [{"x": tokens(32, 0)}], environment=environment)
    return quantize(path, calibration, environment=environment, method="minmax", out=out, recover=())


def session(out: QuantizedModel, optimized: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(
        str(out.path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(out.disabled_optimizers)
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_transformer_block(
    environment: str,
    written_out: bool,
    masked: bool,
    builder: type[Any],
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    path = block(builder, tmp_path / "float.onnx", written_out=written_out, masked=masked)
    out = made(path, environment, tmp_path / "q.onnx")
    onnx.checker.check_model(read_model(out.path), full_check=True)

    # Both operands of every matrix product are read through a DequantizeLinear.
    graph = Graph(read_model(out.path))
    products = [node for node in graph.nodes if node.op_type == "MatMul"]
    assert len(products) == 8
    for node in products:
        assert [graph.producer[name].op_type for name in node.input] == ["DequantizeLinear"] * 2, node.name

    kept = dict(out.kept_float)
    assert {"softmax", "norm1", "norm2", "gelu"} <= kept.keys()
    assert "exponentials" in kept["softmax"]
    assert "mean and variance" in kept["norm1"]
    if written_out:
        assert "GELU" in kept["erf"]
        assert "GELU" in kept["gelu.product"]
        assert "normalization written out" in kept["norm1.square"]
        assert "normalization written out" in kept["norm2.shifted"]
        assert "softmax written out" in kept["shifted"]
    if masked:
        # A mask of -10000 on an int8 scale would leave the scores nothing.
        assert "masked" in kept

    data = tokens(8, 1)
    before = run(path, {"x": data})[0]
    after = session(out, tmp_path / "optimized.onnx").run(None, {"x": data})[0]
    assert sqnr_db(before, after) > (22 if environment in {"fpga", "host"} else 30)


def test_every_product_is_an_integer_kernel_on_cpu(builder: type[Any], tmp_path: Path) -> None:
    path = block(builder, tmp_path / "float.onnx", written_out=False, masked=True)
    out = made(path, "cpu", tmp_path / "q.onnx")
    session(out, tmp_path / "optimized.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] + found["QGemm"] == 8
    assert not {"MatMul", "Gemm", "FusedMatMul"} & found.keys()
