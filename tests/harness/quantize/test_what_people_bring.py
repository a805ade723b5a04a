"""Odd but valid networks, one property each: they are quantized like any other, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.errors import UserError
from harness.quantize import calibrate, details, prepare, quantize
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]
Feed = dict[str, NDArray[Any]]
Quantized = Callable[..., QuantizedModel]


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """Calibrates and quantizes a network; leaves net.onnx and <environment>.onnx."""

    def make(model: ModelProto, feed: Feed, environment: str = "cpu") -> QuantizedModel:
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return quantize(
            path, calibrate(path, [feed], environment=environment), environment=environment, out=tmp_path / "int8.onnx"
        )

    return make


def conv_network(builder: Callable[..., Any], **options: Any) -> ModelProto:  # noqa: ANN401  # opset, ir_version
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3), pads=[1] * 4)
    net.add("Relu", ["conv"], "relu")
    net.conv("relu", "y", (2, 4, 1, 1))
    model: ModelProto = net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 2, 6, 6]}, **options)
    return model


def image(dtype: str = "float32", seed: int = 3) -> Feed:
    return {"x": np.random.default_rng(seed).normal(size=(64, 3, 6, 6)).astype(dtype)}


def close(reference: NDArray[Any], other: NDArray[Any], db: float = 20) -> bool:
    return reference.dtype == other.dtype and sqnr_db(reference.astype(np.float64), other.astype(np.float64)) > db


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


def converted(model: ModelProto, kind: int) -> ModelProto:
    """The same network in another float type, inputs and outputs included."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for index, tensor in enumerate(model.graph.initializer):
        model.graph.initializer[index].CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model


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


def test_a_network_without_inputs(builder: Callable[..., Any], quantized: Quantized, run: Callable[..., Any]) -> None:
    net = builder()
    net.constant("table", np.arange(4, dtype=np.float32))
    net.add("Neg", ["table"], "y")
    result = quantized(net.model({}, {"y": [4]}), {})
    assert result.quantized_layers == 0
    assert np.array_equal(run(result.path, {})[0], -np.arange(4))


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
