"""Prepared networks compute what the given ones do, and preparing them again changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.errors import UserError
from harness.quantize import prepare
from harness.quantize.graph import read_model
from harness.quantize.preparation import prepare_model

MODELS = [
    "mlperf_tiny_ad_autoencoder",
    "mlperf_tiny_kws_dscnn",
    "mlperf_tiny_resnet8_cifar10",
    "mlperf_tiny_vww_mobilenet",
    "mnist-8",
    "mobilenet_v1_0.25_224",
    "squeezenet1.1",
    "fastestdet_coco_352",
]


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def content(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def test_batch_norm_and_dropout_disappear_and_outputs_stay(
    branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    before = branched.read_bytes()
    prepare(branched, tmp_path / "prepared.onnx")
    prepared = read_model(tmp_path / "prepared.onnx")
    onnx.checker.check_model(prepared, full_check=True)
    assert not {"BatchNormalization", "Dropout", "Identity"} & set(ops(prepared))
    feed = {"image": images(4)}
    assert np.allclose(run(branched, feed)[0], run(prepared, feed)[0], atol=1e-6)
    assert branched.read_bytes() == before


def test_preparing_twice_changes_nothing(branched: Path, tmp_path: Path) -> None:
    first = prepare(branched, tmp_path / "a.onnx")
    second = prepare(first, tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", [*MODELS, "silero_vad_16k_op15", "deeplabv3_mnv2_voc_257"])
def test_real_networks_are_prepared_once_and_for_all(name: str, models_dir: Path) -> None:
    first = prepare_model(read_model(models_dir / f"{name}.onnx"), name).model
    assert content(prepare_model(first, name).model) == content(first)
    assert all(entry.version >= 13 for entry in first.opset_import if not entry.domain)
    assert len({node.name for node in first.graph.node}) == len(first.graph.node)
    onnx.checker.check_model(first)


@pytest.mark.parametrize("name", MODELS)
def test_real_networks_keep_their_outputs(name: str, models_dir: Path, run: Callable[..., Any]) -> None:
    path = models_dir / f"{name}.onnx"
    prepared = prepare_model(read_model(path), name).model
    value = prepared.graph.input[0]
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    feed = {value.name: np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)}
    for given, mine in zip(run(path, feed), run(prepared, feed), strict=True):
        assert np.allclose(given, mine, rtol=1e-4, atol=1e-5 * np.abs(given).max())


def test_softmax_over_trailing_ones_is_lifted_without_clutter(models_dir: Path) -> None:
    prepared = prepare_model(read_model(models_dir / "squeezenet1.1.onnx"), "squeezenet").model
    assert ops(prepared)[-1] == "Softmax"
    assert not {"Shape", "Flatten", "Reshape"} & set(ops(prepared))


def test_old_softmax_over_several_axes_keeps_its_meaning(builder: Callable[..., Any], run: Callable[..., Any]) -> None:
    net = builder()
    net.add("Softmax", ["x"], "y", axis=1)
    model = net.model({"x": [2, 3, 4]}, {"y": [2, 3, 4]}, opset=9)
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    prepared = prepare_model(model, "net").model
    assert np.allclose(run(model, feed)[0], run(prepared, feed)[0], atol=1e-6)
    assert run(prepared, feed)[0].reshape(2, -1).sum(axis=1) == pytest.approx([1, 1])


def test_transposed_and_grouped_convolutions_take_the_factors_of_their_own_channels(
    builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(3)
    net.add("ConvTranspose", ["x", net.weights("w", 4, 3, 2, 2)], "up", group=2, strides=[2, 2])
    for name, low, high in (("s", 0.5, 2), ("b", -1, 1), ("m", -1, 1), ("v", 0.5, 2)):
        net.constant(name, net.rng.uniform(low, high, 6).astype(np.float32))
    net.add("BatchNormalization", ["up", "s", "b", "m", "v"], "y")
    model = net.model({"x": [1, 4, 5, 5]}, {"y": [1, 6, 10, 10]})
    prepared = prepare_model(model, "net").model
    assert ops(prepared) == ["ConvTranspose"]
    feed = {"x": np.random.default_rng(0).normal(size=(1, 4, 5, 5)).astype(np.float32)}
    assert np.allclose(run(model, feed)[0], run(prepared, feed)[0], atol=1e-5)


def test_a_shared_weight_is_not_scaled_for_its_other_reader(
    builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(4)
    net.weights("w", 4, 4, 1, 1)
    net.add("Conv", ["x", "w"], "a")
    net.add("Mul", ["a", net.constant("m", np.full((4, 1, 1), 3, np.float32))], "a3")
    net.add("Conv", ["x", "w"], "b")
    net.add("Add", ["a3", "b"], "y")
    model = net.model({"x": [1, 4, 3, 3]}, {"y": [1, 4, 3, 3]})
    prepared = prepare_model(model, "net").model
    assert "Mul" not in ops(prepared)
    feed = {"x": np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)}
    assert np.allclose(run(model, feed)[0], run(prepared, feed)[0], atol=1e-5)


def test_constants_are_folded_but_outputs_are_not_lost(builder: Callable[..., Any], run: Callable[..., Any]) -> None:
    net = builder()
    net.constant("table", np.arange(6, dtype=np.float32))
    net.constant("shape", np.array([2, 3], np.int64))
    net.add("Reshape", ["table", "shape"], "matrix")
    net.add("MatMul", ["x", "matrix"], "y")
    net.add("Identity", ["matrix"], "echo")
    model = net.model({"x": [1, 2]}, {"y": [1, 3], "echo": [2, 3]})
    prepared = prepare_model(model, "net").model
    feed = {"x": np.array([[1, 2]], np.float32)}
    for given, mine in zip(run(model, feed), run(prepared, feed), strict=True):
        assert np.array_equal(given, mine)


def test_a_tensor_read_by_a_branch_keeps_its_name(builder: Callable[..., Any], run: Callable[..., Any]) -> None:
    body = [
        helper.make_graph(
            [helper.make_node(op, ["kept"], [f"{op}.out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}.out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Abs")
    ]
    net = builder()
    net.constant("yes", np.array(True))
    net.add("Relu", ["x"], "r")
    net.add("Identity", ["r"], "kept")
    net.add("If", ["yes"], "y", then_branch=body[0], else_branch=body[1])
    model = net.model({"x": [3]}, {"y": [3]})
    prepared = prepare_model(model, "net").model
    feed = {"x": np.array([-1, 2, 3], np.float32)}
    assert np.array_equal(run(model, feed)[0], run(prepared, feed)[0])


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_unreadable_files_are_one_line_errors(damage: str, branched: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    if damage != "missing":
        whole = branched.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a network\n" * 9}[damage])
    with pytest.raises(UserError, match=r"bad\.onnx") as caught:
        prepare(path, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_missing_external_data_is_named(branched: Path, tmp_path: Path) -> None:
    model = onnx.load(branched)
    onnx.save(model, tmp_path / "ext.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"external data.*copy the data file"):
        prepare(tmp_path / "ext.onnx", tmp_path / "out.onnx")


def test_external_data_beside_the_network_is_read(
    branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    model = onnx.load(branched)
    onnx.save(model, tmp_path / "ext.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    out = prepare(tmp_path / "ext.onnx", tmp_path / "out.onnx")
    (tmp_path / "weights.bin").unlink()
    feed = {"image": images(2)}
    assert np.allclose(run(out, feed)[0], run(branched, feed)[0], atol=1e-6)


def test_a_place_that_cannot_be_written_is_a_user_error(branched: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        prepare(branched, Path(tmp_path / "no" / "folder" / "x.onnx"))


def normalization(net: Any, data: str, output: str, channels: int) -> str:  # noqa: ANN401  # the network builder
    names = [
        net.constant(f"{output}.{part}", net.rng.uniform(low, high, channels).astype(np.float32))
        for part, low, high in (("s", -2, 2), ("b", -1, 1), ("m", -1, 1), ("v", 0.5, 2))
    ]
    made: str = net.add("BatchNormalization", [data, *names], output)
    return made


def affine(net: Any, op: str, data: str, output: str, shape: tuple[int, ...]) -> str:  # noqa: ANN401  # the same
    """A layer of a constant operand; a name ending in " reversed" puts the constant first."""
    constant = net.constant(f"{output}.c", net.rng.uniform(0.5, 2, shape).astype(np.float32))
    inputs = [constant, data] if op.endswith("reversed") else [data, constant]
    made: str = net.add(op.split(maxsplit=1)[0], inputs, output)
    return made


def check(model: onnx.ModelProto, run: Callable[..., Any], left: list[str], shape: tuple[int, ...]) -> onnx.ModelProto:
    """The prepared network consists of `left`, computes the same, and is prepared for good."""
    prepared = prepare_model(model, "net").model
    assert ops(prepared) == left
    feed = {"x": np.random.default_rng(11).normal(size=shape).astype(np.float32)}
    given, mine = run(model, feed)[0], run(prepared, feed)[0]
    assert np.allclose(given, mine, rtol=1e-4, atol=1e-5 * np.abs(given).max())
    assert content(prepare_model(prepared, "net").model) == content(prepared)
    return prepared


OPERATIONS = ["Mul", "Add", "Sub", "Div", "Sub reversed", "Mul reversed", "Add reversed"]


@pytest.mark.parametrize("operation", [*OPERATIONS, "BatchNormalization"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), ()])
def test_what_follows_a_gemm_becomes_part_of_it(
    operation: str, transposed: int, bias: tuple[int, ...] | None, builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(1)
    inputs = ["x", net.weights("w", *((5, 7) if transposed else (7, 5)))]
    if bias is not None:
        inputs.append(net.constant("b", net.rng.normal(size=bias).astype(np.float32)))
    net.add("Gemm", inputs, "gemm", transB=transposed, alpha=0.5, beta=3.0)
    if operation == "BatchNormalization":
        normalization(net, "gemm", "y", 5)
    else:
        affine(net, operation, "gemm", "y", (5,))
    check(net.model({"x": ["N", 7]}, {"y": ["N", 5]}), run, ["Gemm"], (4, 7))


def test_a_bias_per_row_stays_where_it_is(builder: Callable[..., Any], run: Callable[..., Any]) -> None:
    net = builder(1)
    net.constant("b", net.rng.normal(size=(5, 1)).astype(np.float32))
    net.add("Gemm", ["x", net.weights("w", 7, 5), "b"], "gemm")
    affine(net, "Mul", "gemm", "y", (5,))
    prepared = prepare_model(model := net.model({"x": [5, 7]}, {"y": [5, 5]}), "net").model
    assert "Mul" in ops(prepared)
    feed = {"x": np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)}
    assert np.allclose(run(model, feed)[0], run(prepared, feed)[0], atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("operand", [(5,), (1, 1, 5), (1,), ()])
@pytest.mark.parametrize("bias", [False, True])
def test_what_follows_a_matrix_product_becomes_its_weights_and_one_sum(
    operation: str, operand: tuple[int, ...], bias: bool, builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(2)
    last = net.add("MatMul", ["x", net.weights("w", 7, 5)], "product")
    if bias:
        last = affine(net, "Add", last, "biased", (5,))
    affine(net, operation, last, "y", operand)
    factor_only = operation.split(maxsplit=1)[0] in {"Mul", "Div"}
    left = ["MatMul"] if factor_only and not bias else ["MatMul", "Add"]
    check(net.model({"x": ["N", 3, 7]}, {"y": ["N", 3, 5]}), run, left, (2, 3, 7))


def test_normalization_after_a_matrix_product_folds_only_over_its_columns(
    builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(3)
    net.add("MatMul", ["x", net.weights("w", 7, 5)], "product")
    normalization(net, "product", "y", 5)
    check(net.model({"x": ["N", 7]}, {"y": ["N", 5]}), run, ["MatMul", "Add"], (4, 7))
    net = builder(3)
    net.add("MatMul", ["x", net.weights("w", 7, 5)], "product")
    normalization(net, "product", "y", 3)  # channels are rows here
    check(net.model({"x": ["N", 3, 7]}, {"y": ["N", 3, 5]}), run, ["MatMul", "BatchNormalization"], (2, 3, 7))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("operation", [*OPERATIONS, "BatchNormalization"])
def test_what_precedes_a_convolution_folds_where_that_is_exact(
    operation: str, bias: bool, groups: int, builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    for pads in ([0] * 4, [1] * 4):
        net = builder(4)
        if operation == "BatchNormalization":
            normalization(net, "x", "before", 4)
        else:
            affine(net, operation, "x", "before", (4, 1, 1))
        net.conv("before", "y", (6, 4 // groups, 3, 3), bias=bias, group=groups, pads=pads)
        model = net.model({"x": ["N", 4, 6, 6]}, {"y": None})
        # A padded border is zero: a factor leaves it alone, an offset does not.
        exact = not any(pads) or operation.split(maxsplit=1)[0] in {"Mul", "Div"}
        left = ["Conv"] if exact else [operation.split(maxsplit=1)[0], "Conv"]
        check(model, run, left, (2, 4, 6, 6))


def test_an_operand_that_widens_its_input_stays_before_the_convolution(
    builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    net = builder(5)
    affine(net, "Mul", "x", "colours", (1, 3, 1, 1))  # one grey channel becomes three
    net.conv("colours", "y", (2, 3, 3, 3))
    check(net.model({"x": ["N", 1, 6, 6]}, {"y": None}), run, ["Mul", "Conv"], (2, 1, 6, 6))


def test_what_others_read_too_is_not_folded(builder: Callable[..., Any], run: Callable[..., Any]) -> None:
    net = builder(6)
    net.conv("x", "conv", (3, 3, 1, 1))
    affine(net, "Mul", "conv", "scaled", (3, 1, 1))
    net.add("Add", ["conv", "scaled"], "y")
    check(net.model({"x": ["N", 3, 4, 4]}, {"y": None}), run, ["Conv", "Mul", "Add"], (2, 3, 4, 4))


def test_a_division_by_zero_is_not_folded(builder: Callable[..., Any]) -> None:
    net = builder(7)
    net.conv("x", "conv", (2, 3, 1, 1))
    net.add("Div", ["conv", net.constant("c", np.array([[[1]], [[0]]], np.float32))], "y")
    assert ops(prepare_model(net.model({"x": [1, 3, 4, 4]}, {"y": None}), "net").model) == ["Conv", "Div"]


def test_a_folded_layer_is_excluded_with_the_layer_it_went_into(builder: Callable[..., Any]) -> None:
    net = builder(8)
    net.add("MatMul", ["x", net.weights("w", 7, 5)], "product")
    affine(net, "Add", "product", "bias", (5,))
    affine(net, "Mul", "bias", "scale", (5,))
    normalization(net, "image", "before", 3)
    net.conv("before", "conv", (2, 3, 3, 3))
    model = net.model({"x": ["N", 7], "image": ["N", 3, 8, 8]}, {"scale": None, "conv": None})
    assert dict(prepare_model(model, "net").folded) == {"scale": "bias", "before": "conv"}


@pytest.mark.parametrize("opset", [21, 22, 23, 24])
def test_newer_opsets_are_declared_as_20_where_they_mean_the_same(
    opset: int, builder: Callable[..., Any], run: Callable[..., Any]
) -> None:
    def network(layer: str, **attributes: int) -> onnx.ModelProto:
        net = builder(9)
        net.conv("x", "conv", (4, 3, 3, 3))
        parameters = [net.weights(f"{layer}.{i}", 4) for i in range(2)] if attributes else []
        net.add(layer, ["conv", *parameters], "y", **attributes)
        made: onnx.ModelProto = net.model({"x": ["N", 3, 6, 6]}, {"y": None}, opset=opset, ir_version=10)
        return made

    prepared = check(network("Elu"), run, ["Conv", "Elu"], (2, 3, 6, 6))
    assert prepared.opset_import[0].version == 20
    # Its scale and bias are per channel since 21, per group before.
    changed = check(network("GroupNormalization", num_groups=2), run, ["Conv", "GroupNormalization"], (2, 3, 6, 6))
    assert changed.opset_import[0].version == opset


def test_one_constant_the_runtime_cannot_compute_does_not_keep_the_others(builder: Callable[..., Any]) -> None:
    net = builder()
    net.constant("a", np.arange(4, dtype=np.float32))
    net.constant("five", np.array([5], np.int64))
    net.add("Reshape", ["a", "five"], "impossible")
    net.add("Neg", ["a"], "negative")
    net.add("Mul", ["x", "negative"], "y")
    net.add("Mul", ["x", "impossible"], "z")
    prepared = prepare_model(net.model({"x": [4]}, {"y": [4], "z": None}), "net").model
    assert sorted(ops(prepared)) == ["Mul", "Mul", "Reshape"]
