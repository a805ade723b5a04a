"""The SQNR of each layer that a run keeps, against the networks run by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.quantize import calibrate, quantize
from harness.runs.layers import layer_sqnr


@pytest.fixture
def network(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name)
        for name, shape in (("w1", (4, 3, 3, 3)), ("w2", (5, 4, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 4, 4])],
        weights,
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_last_layers_sqnr_is_that_of_the_outputs(network: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    made = quantize(network, calibrate(network, feeds, environment="cpu"), environment="cpu", out=tmp_path / "q.onnx")
    found = layer_sqnr(network, made.path, feeds)
    assert [(one.layer, one.op_type) for one in found] == [("first", "Conv"), ("second", "Conv")]
    signal = noise = 0.0
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (network, made.path)]
    for feed in feeds:
        exact, rounded = (session.run(None, feed)[0].astype(np.float64) for session in sessions)
        signal += float(np.sum(exact**2))
        noise += float(np.sum((exact - rounded) ** 2))
    assert found[1].sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.5)


def test_an_equal_network_has_no_figure_and_a_strange_one_no_layers(network: Path, tmp_path: Path) -> None:
    feeds = [{"x": np.ones((1, 3, 8, 8), np.float32)}]
    assert {one.sqnr_db for one in layer_sqnr(network, network, feeds)} == {None}
    other = onnx.load(network)
    for node in other.graph.node:
        node.output[:] = [f"other_{name}" for name in node.output]
        node.input[:] = [f"other_{name}" if name in ("a", "b") else name for name in node.input]
    other.graph.output[0].name = "other_y"
    onnx.save(other, tmp_path / "other.onnx")
    assert layer_sqnr(network, tmp_path / "other.onnx", feeds) == ()
