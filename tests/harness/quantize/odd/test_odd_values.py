"""Types, sizes and values that are odd but valid: quantized like any other, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.errors import UserError
from harness.quantize import details, prepare
from tests.harness.quantize.odd.networks import ENVIRONMENTS, Quantized, close, conv_network, converted, image


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")])
def test_half_and_double_networks_keep_their_inputs_and_outputs(
    kind: int, dtype: str, environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    single = conv_network(builder)
    result = quantized(converted(conv_network(builder), kind), image(dtype), environment)
    assert result.quantized_layers == 3
    found = run(result.path, image(dtype))[0]
    assert found.dtype == np.dtype(dtype)
    assert close(run(single, image())[0].astype(dtype), found)
    # What travels to the board is int8 and float32: nothing is stored twice.
    stored = {tensor.data_type for tensor in onnx.load(result.path).graph.initializer}
    assert kind not in stored


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_weights_between_casts(
    kind: int, environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    single = conv_network(builder)
    model = converted(conv_network(builder), kind)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node[0].input[0], model.graph.node[-1].output[0] = "x.half", "y.half"
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x.half"], to=kind))
    model.graph.node.append(helper.make_node("Cast", ["y.half"], ["y"], to=TensorProto.FLOAT))
    result = quantized(model, image(), environment)
    assert result.quantized_layers == 3
    assert close(run(single, image())[0], run(result.path, image())[0], 18)


def test_a_bfloat16_input_is_refused_in_one_line(builder: Callable[..., Any], quantized: Quantized) -> None:
    with pytest.raises(UserError, match=r"input 'x' of the network is bfloat16.*cast inside it"):
        quantized(converted(conv_network(builder), TensorProto.BFLOAT16), image())


def test_half_precision_outside_of_the_weights_keeps_its_rounding(
    builder: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    net = builder()
    net.add("Cast", ["x"], "half", to=TensorProto.FLOAT16)
    net.add("Cast", ["half"], "y", to=TensorProto.FLOAT)
    model = net.model({"x": ["N", 3, 6, 6]}, {"y": None})
    onnx.save(model, tmp_path / "net.onnx")
    out = prepare(tmp_path / "net.onnx", tmp_path / "out.onnx")
    assert np.array_equal(run(out, image())[0], image()["x"].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_dimension_of_size_zero(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "conv", (2, 3, 3, 3))
    net.constant("none", np.zeros((1, 0, 4, 4), np.float32))
    net.add("Concat", ["conv", "none"], "both", axis=1)
    net.conv("both", "y", (2, 2, 1, 1))
    model = net.model({"x": [1, 3, 6, 6]}, {"y": [1, 2, 4, 4]})
    feed = {"x": image()["x"][:1]}
    result = quantized(model, feed, environment)
    assert close(run(model, feed)[0], run(result.path, feed)[0])

    net = builder()
    net.add("MatMul", ["x", net.constant("w", np.zeros((0, 3), np.float32))], "y")
    nothing = {"x": np.zeros((2, 0), np.float32)}
    result = quantized(net.model({"x": [2, 0]}, {"y": [2, 3]}), nothing, environment)
    assert np.array_equal(run(result.path, nothing)[0], np.zeros((2, 3)))

    net = builder()
    net.add("MatMul", ["x", net.weights("w", 6, 3)], "y")
    nothing = {"x": np.zeros((0, 6), np.float32)}
    result = quantized(net.model({"x": [0, 6]}, {"y": [0, 3]}), nothing, environment)
    assert run(result.path, nothing)[0].shape == (0, 3)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("initializer", ["conv.w", "conv.b", "y.w"])
def test_weights_that_are_not_finite_are_named(
    initializer: str, value: float, environment: str, builder: Callable[..., Any], quantized: Quantized
) -> None:
    model = conv_network(builder)
    for tensor in model.graph.initializer:
        if tensor.name == initializer:
            broken = numpy_helper.to_array(tensor).copy()
            broken.reshape(-1)[0] = value
            tensor.CopyFrom(numpy_helper.from_array(broken, initializer))
    with pytest.raises(UserError, match=rf"initializer '{initializer}'.*(holds|is not finite)") as caught:
        quantized(model, image(), environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_mask_of_minus_infinity_stays_float(
    environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.add("MatMul", ["x", net.weights("w", 6, 6)], "scores")
    mask = np.zeros((6, 6), np.float32)
    mask[np.triu_indices(6, 1)] = -np.inf
    net.add("Add", ["scores", net.constant("mask", mask)], "masked")
    net.add("Softmax", ["masked"], "share", axis=-1)
    net.add("MatMul", ["share", net.weights("v", 6, 3)], "y")
    model = net.model({"x": [6, 6]}, {"y": [6, 3]})
    feed = {"x": np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)}
    result = quantized(model, feed, environment)
    assert "scores" in details(result.path).QuantizedLayerNames
    assert close(run(model, feed)[0], run(result.path, feed)[0])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_a_mask_made_at_run_time_stays_float_and_the_products_around_it_do_not(
    lowest: float, environment: str, builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]
) -> None:
    net = builder()
    net.add("MatMul", ["x", net.weights("q", 6, 6)], "query")
    net.add("Transpose", ["x"], "turned", perm=[0, 2, 1])
    net.add("MatMul", ["query", "turned"], "scores")
    net.add("Where", ["seen", net.constant("keep", np.zeros((), np.float32)), "lowest"], "mask")
    net.constant("lowest", np.array(lowest, np.float32))
    net.add("Unsqueeze", ["mask", net.constant("axis", np.array([0], np.int64))], "mask.batch")
    net.add("Add", ["scores", "mask.batch"], "masked")
    net.add("Softmax", ["masked"], "share", axis=-1)
    net.add("MatMul", ["share", "x"], "y")
    model = net.model({"x": ["N", 4, 6], "seen": [4, 4]}, {"y": None})
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    feed = {"x": np.random.default_rng(1).normal(size=(32, 4, 6)).astype(np.float32), "seen": np.tri(4, dtype=bool)}
    result = quantized(model, feed, environment)
    reasons = dict(result.kept_float)
    assert "masked" in reasons
    assert "infinity, from 'lowest'" in reasons["mask"]
    assert {"query", "scores", "y"} <= set(details(result.path).QuantizedLayerNames)
    assert close(run(model, feed)[0], run(result.path, feed)[0], 15)


@pytest.mark.parametrize("kind", ["text", "sequence"])
def test_inputs_that_are_no_tensor_of_numbers(kind: str, builder: Callable[..., Any], quantized: Quantized) -> None:
    net = builder()
    net.add("Identity", ["words"], "y")
    model = net.model({"words": [2]}, {"y": None}, opset=16)
    value = model.graph.input[0]
    if kind == "text":
        value.type.tensor_type.elem_type = TensorProto.STRING
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    else:
        sequence = helper.make_tensor_sequence_value_info("words", TensorProto.FLOAT, [2])
        value.CopyFrom(sequence)
        model.graph.output[0].CopyFrom(sequence)
        model.graph.output[0].name = "y"
    with pytest.raises(UserError, match=r"input 'words' of the network is .*can be fed"):
        quantized(model, {"words": np.array(["a", "b"])})
