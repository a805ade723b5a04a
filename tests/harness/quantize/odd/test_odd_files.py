"""Files that are odd but valid, one property each: quantized like any other, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from harness.errors import UserError
from harness.quantize import calibrate, details, quantize
from tests.harness.quantize.odd.networks import ENVIRONMENTS, Quantized, close, conv_network, image


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("opset", [*range(7, onnx.defs.onnx_opset_version() + 1)])
def test_every_opset_since_7(
    opset: int, environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    model = conv_network(builder, opset=opset)
    result = quantized(model, image(), environment)
    assert result.quantized_layers == 3
    declared = conv_network(builder, opset=min(opset, 13))
    assert close(run(declared, image())[0], run(result.path, image())[0], 15)


@pytest.mark.parametrize("ir_version", range(3, onnx.IR_VERSION + 1))
def test_every_ir_version_with_initializers_among_the_inputs(
    ir_version: int, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    model = conv_network(builder, opset=9, ir_version=ir_version)
    for tensor in model.graph.initializer:  # what IR 3 demanded, and exporters kept doing
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = quantized(model, image())
    assert result.quantized_layers == 3
    assert [value.name for value in onnx.load(result.path).graph.input] == ["x"]
    assert run(result.path, image())[0].shape == (64, 2, 6, 6)


def test_ir_version_3_without_its_constants_among_the_inputs(builder: Callable[..., Any], quantized: Quantized) -> None:
    """Not what IR 3 allowed, but what edited files have, and the runtime takes."""
    assert quantized(conv_network(builder, opset=9, ir_version=3), image()).quantized_layers == 3


def test_an_opset_of_the_future_is_refused_in_one_line(builder: Callable[..., Any], quantized: Quantized) -> None:
    with pytest.raises(UserError, match=r"cannot load it .*opset") as caught:
        quantized(conv_network(builder, opset=onnx.defs.onnx_opset_version() + 3), image())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("names", ["none", "the same"])
def test_nodes_without_names_and_with_the_same_name(
    names: str, environment: str, builder: Callable[..., Any], quantized: Quantized
) -> None:
    model = conv_network(builder)
    for node in model.graph.node:
        node.name = "" if names == "none" else "layer"
    result = quantized(model, image(), environment)
    layers = details(result.path).QuantizedLayerNames
    assert len(set(layers)) == len(layers) == 3


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nodes_in_no_order(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    model = conv_network(builder)
    reference = run(model, image())[0]
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    result = quantized(model, image(), environment)
    assert result.quantized_layers == 3
    assert close(reference, run(result.path, image())[0])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_functions_of_the_network_are_written_out(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    block = helper.make_function(
        "mine",
        "Block",
        ["data", "weight"],
        ["result"],
        [helper.make_node("Conv", ["data", "weight"], ["c"]), helper.make_node("Relu", ["c"], ["result"])],
        [helper.make_opsetid("", 17)],
    )
    net = builder()
    for index, data in enumerate(["x", "first"]):
        node = helper.make_node("Block", [data, net.weights(f"w{index}", 3, 3, 3, 3)], [["first", "y"][index]])
        node.domain = "mine"
        net.nodes.append(node)
    model = net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 3, 2, 2]}, opset=17)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(block)
    onnx.checker.check_model(model)
    result = quantized(model, image(), environment)
    assert result.quantized_layers == 4
    assert close(run(model, image())[0], run(result.path, image())[0], 15)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_external_data(environment: str, builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]) -> None:
    model = conv_network(builder)
    reference = run(model, image())[0]
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    result = quantize(
        path, calibrate(path, [image()], environment=environment), environment=environment, out=tmp_path / "int8.onnx"
    )
    (tmp_path / "weights.bin").unlink()
    assert result.quantized_layers == 3
    assert close(reference, run(result.path, image())[0])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("where", ["initializer", "Constant", "Constant, indices per axis"])
def test_sparse_weights(
    where: str, environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(5)
    dense = rng.normal(size=(6, 4)).astype(np.float32) * (rng.uniform(size=(6, 4)) < 0.4)
    flat = np.flatnonzero(dense)
    indices = np.argwhere(dense).astype(np.int64) if "axis" in where else flat.astype(np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(dense.reshape(-1)[flat], "w"), numpy_helper.from_array(indices, "i"), [6, 4]
    )
    net = builder()
    if where == "initializer":
        net.add("MatMul", ["x", "w"], "y")
    else:
        net.nodes.append(helper.make_node("Constant", [], ["w"], sparse_value=sparse))
        net.add("MatMul", ["x", "w"], "y")
    model = net.model({"x": ["N", 6]}, {"y": ["N", 4]})
    if where == "initializer":
        model.graph.sparse_initializer.append(sparse)
    feed = {"x": rng.normal(size=(8, 6)).astype(np.float32)}
    result = quantized(model, feed, environment)
    assert result.quantized_layers == 1
    assert close(feed["x"] @ dense, run(result.path, feed)[0], 15)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_operators_of_other_domains(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3))
    net.add("Gelu", ["conv"], "gelu")
    net.nodes[-1].domain = "com.microsoft"
    net.conv("gelu", "y", (2, 4, 1, 1))
    model = net.model({"x": ["N", 3, 6, 6]}, {"y": None})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    result = quantized(model, image(), environment)  # the runtime knows it: it stays float, with the reason
    assert "com.microsoft::Gelu" in dict(result.kept_float)["gelu"]
    assert close(run(model, image())[0], run(result.path, image())[0], 15)

    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UserError, match=r"com\.example") as caught:
        quantized(model, image(), environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("moved", ["in the middle", "at the end"])
def test_operators_that_only_newer_opsets_have(
    moved: str, environment: str, builder: Callable[..., Any], quantized: Quantized
) -> None:
    net = builder()
    net.add("MatMul", ["x", net.weights("w", 8, 8)], "a")
    data = net.add("Transpose", ["a"], "turned", perm=[0, 2, 1]) if moved == "in the middle" else "a"
    net.add("RMSNormalization", [data, net.constant("s", np.ones(8, np.float32))], "normal")
    net.add("MatMul", ["normal", net.weights("v", 8, 8)], "b")
    net.add("Relu", ["b"], "relu" if moved == "at the end" else "y")
    if moved == "at the end":
        net.add("Transpose", ["relu"], "y", perm=[0, 2, 1])
    model = net.model({"x": ["N", 8, 8]}, {"y": None}, opset=23, ir_version=10)
    feed = {"x": np.random.default_rng(0).normal(size=(32, 8, 8)).astype(np.float32)}
    result = quantized(model, feed, environment)
    outputs = []
    for content, disabled in ((model.SerializeToString(), ()), (result.path.read_bytes(), result.disabled_optimizers)):
        session = ort.InferenceSession(
            content, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled) or None
        )
        outputs.append(session.run(None, feed)[0])
    assert close(outputs[0], outputs[1], 15)
