"""The layers of a network as a performance model sees them: counts against closed forms, and whatever people bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import harness
from harness.emulation.performance.dpu import DPU_ARCHS
from harness.emulation.performance.dpu_layers import software_reason
from harness.emulation.performance.layers import LayerShape, Volume
from harness.emulation.performance.reading import read_shape
from harness.errors import UserError
from tests.harness.emulation.performance.networks import node, shape_of, weights

SHARED = Path(__file__).parents[5] / "shared"
MODELS = sorted((SHARED / "data/models").glob("*.onnx"))
DIGITS = Path(__file__).parents[4] / "harness/demo/digits.onnx"


def only(folder: Path, *parts: object) -> LayerShape:
    nodes, constants, shape = parts
    found = shape_of(folder, nodes, constants, shape)  # type: ignore[arg-type]
    assert len(found.layers) == 1
    return found.layers[0]


def test_a_convolution_is_counted_as_its_loops_run(tmp_path: Path) -> None:
    layer = only(
        tmp_path,
        [node("Conv", ["x", "w", "b"], "c", strides=[2, 1], pads=[1, 2, 0, 2], dilations=[1, 2], group=2)],
        [weights("w", 6, 2, 3, 3), weights("b", 6)],
        (1, 4, 9, 8),
    )
    # by hand: (9 + 1 + 0 - 3) // 2 + 1 = 4 rows, 8 + 4 - 5 + 1 = 8 columns
    assert (layer.kind, layer.output) == ("conv", Volume(6, 4, 8))
    assert layer.macs == sum(2 * 3 * 3 for _ in range(6 * 4 * 8))
    assert (layer.weights, layer.biases, layer.groups) == (6 * 2 * 3 * 3, 6, 2)
    assert (layer.kernel, layer.strides, layer.dilations, layer.pads) == ((3, 3), (2, 1), (1, 2), (1, 2, 0, 2))


def test_depthwise_and_transposed_convolutions(tmp_path: Path) -> None:
    deep = only(tmp_path, [node("Conv", ["x", "w"], "c", group=8)], [weights("w", 8, 1, 3, 3)], (1, 8, 7, 7))
    assert (deep.kind, deep.macs, deep.weights, deep.biases) == ("depthwise", 8 * 25 * 9, 72, 0)
    wide = only(
        tmp_path,
        [node("ConvTranspose", ["x", "w"], "c", strides=[2, 2])],
        [weights("w", 3, 5, 2, 2)],
        (1, 3, 4, 4),
    )
    # every input value meets every output channel and tap once
    assert (wide.kind, wide.output, wide.macs) == ("transposed", Volume(5, 8, 8), 3 * 16 * 5 * 4)


def test_padding_that_is_named_same(tmp_path: Path) -> None:
    for name, pads in (("SAME_UPPER", (0, 0, 1, 1)), ("SAME_LOWER", (1, 1, 0, 0))):
        layer = only(
            tmp_path,
            [node("Conv", ["x", "w"], "c", strides=[2, 2], auto_pad=name)],
            [weights("w", 4, 3, 3, 3)],
            (1, 3, 8, 8),
        )
        assert (layer.output, layer.pads) == (Volume(4, 4, 4), pads)


def test_what_a_board_does_on_the_way_out_is_one_layer(tmp_path: Path) -> None:
    found = shape_of(
        tmp_path,
        [
            node("Conv", ["x", "w"], "c"),
            node("BatchNormalization", ["c", "s", "s", "s", "s"], "n"),
            node("Relu", ["n"], "r"),
            node("Conv", ["r", "v"], "d"),
            node("Relu", ["d"], "e"),
            node("Add", ["d", "e"], "sum"),
            node("GlobalAveragePool", ["sum"], "mean"),
            node("Flatten", ["mean"], "flat"),
            node("MatMul", ["flat", "m"], "dense"),
            node("Add", ["dense", "bias"], "biased"),
        ],
        [
            weights(n, *s)
            for n, s in (("w", (4, 3, 1, 1)), ("s", (4,)), ("v", (4, 4, 1, 1)), ("m", (4, 2)), ("bias", (2,)))
        ],
        (1, 3, 5, 5),
    )
    assert found.layer("c").members == ("c", "n", "r")
    assert found.layer("c").fused == ("BatchNormalization", "Relu")
    assert found.layer("c").biases == 4
    # "d" is read twice: its activation function stays a layer
    assert [layer.name for layer in found.layers] == ["c", "d", "e", "sum", "mean", "flat", "dense"]
    assert found.layer("sum").parents == ("d", "e")
    assert found.layer("mean").kernel == (5, 5)
    assert (found.layer("dense").biases, found.layer("dense").members) == (2, ("dense", "biased"))
    assert found.outputs == ("dense",)
    assert found.operations == 2 * (25 * 12 + 25 * 16 + 8)


def test_images_with_channels_last_are_turned_before_the_board(tmp_path: Path) -> None:
    found = shape_of(
        tmp_path,
        [node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]), node("Conv", ["t", "w"], "c")],
        [weights("w", 4, 3, 3, 3)],
        (1, 20, 30, 3),
    )
    assert found.inputs == {"x": Volume(3, 20, 30)}
    assert [layer.name for layer in found.layers] == ["c"]
    assert found.layers[0].parents == ("",)


def test_one_dimension_free_axes_and_a_recurrent_layer(tmp_path: Path) -> None:
    found = shape_of(
        tmp_path,
        [
            node("Conv", ["x", "w"], "c", pads=[1, 1], strides=[2]),
            node("Transpose", ["c"], "t", perm=[2, 0, 1]),
            node("LSTM", ["t", "lw", "lr"], "lstm", hidden_size=4),
        ],
        [weights("w", 6, 2, 3), weights("lw", 1, 16, 6), weights("lr", 1, 16, 4)],
        ("batch", 2, 10),
    )
    conv, _, lstm = found.layers
    assert (conv.output, conv.kernel, conv.strides) == (Volume(6, 1, 5), (1, 3), (1, 2))
    assert conv.macs == 6 * 5 * 2 * 3
    assert (lstm.kind, lstm.weights) == ("other", 16 * 6 + 16 * 4)
    free = shape_of(tmp_path, [node("Relu", ["x"], "r")], [], ("batch", 3, "height", "width"))
    assert free.inputs == {"x": Volume(3, 1, 1)}
    assert (free.free, found.free) == (("x: height, width",), ())


def test_a_window_over_three_axes_is_told_apart(tmp_path: Path) -> None:
    layer = only(tmp_path, [node("Conv", ["x", "w"], "c")], [weights("w", 8, 3, 3, 3, 3)], (1, 3, 9, 9, 9))
    assert layer.axes == 3


def test_attention_multiplies_activations(tmp_path: Path) -> None:
    found = shape_of(
        tmp_path,
        [
            node("MatMul", ["x", "q"], "query"),
            node("MatMul", ["x", "k"], "key"),
            node("Transpose", ["key"], "turned", perm=[0, 2, 1]),
            node("MatMul", ["query", "turned"], "scores"),
            node("Softmax", ["scores"], "soft", axis=-1),
            node("ReduceMean", ["soft"], "mean", axes=[1], keepdims=1),
        ],
        [weights("q", 8, 8), weights("k", 8, 8)],
        (1, 5, 8),
    )
    assert (found.layer("query").weights, found.layer("query").macs) == (64, 5 * 8 * 8)
    assert (found.layer("scores").weights, found.layer("scores").macs) == (0, 5 * 5 * 8)
    assert found.layer("scores").parents == ("query", "turned")
    assert found.layer("mean").kind == "other"  # not over height and width


def test_weights_that_other_constants_make_are_weights(tmp_path: Path) -> None:
    shape = onnx.numpy_helper.from_array(np.array([6, 2]), "shape")
    found = shape_of(
        tmp_path,
        [node("Reshape", ["flat", "shape"], "w"), node("MatMul", ["x", "w"], "m")],
        [weights("flat", 12), shape],
        (1, 6),
    )
    assert [(layer.name, layer.weights, layer.macs) for layer in found.layers] == [("m", 12, 12)]


def test_what_is_known_only_at_run_time_is_listed_with_its_weights(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["first"], name="first"),
            helper.make_node("Own", ["first"], ["y"], domain="some.where"),
            helper.make_node("Relu", ["y"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "v"], ["c"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
        [weights("w", 4, 3, 1, 1), weights("v", 2, 4, 1, 1)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)]
    path = tmp_path / "own.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    first, second = read_shape(path).layers
    assert (first.kind, first.macs) == ("conv", 16 * 12)
    assert (second.kind, second.weights, second.macs, second.parents) == ("other", 8, 0, ("first",))
    assert software_reason(second, DPU_ARCHS["B4096"]) == "its shapes are known only when the network runs"


def test_an_input_of_unknown_rank_is_the_users_error(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "rank.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(UserError, match="export it with fixed shapes"):
        read_shape(path)


@pytest.mark.parametrize("environment", ["cpu", "gpu", "fpga", "host"])
def test_a_quantized_network_has_the_layers_of_its_float_one(tmp_path: Path, environment: str) -> None:
    samples = np.random.default_rng(0).random((8, 1, 32, 32), dtype=np.float32)
    model = read_shape(DIGITS)
    quantizer = harness.Quantizer(DIGITS, environment)
    quantizer.calibrate(samples)
    out = tmp_path / "int8.onnx"
    quantizer.quantize(out)
    quantized = read_shape(out)
    assert quantized.operations == model.operations
    assert [(layer.kind, layer.fused, layer.biases) for layer in quantized.layers] == [
        (layer.kind, layer.fused, layer.biases) for layer in model.layers
    ]
    for kind in ("conv", "fc"):
        mine = [(layer.macs, layer.weights, layer.output) for layer in model.layers if layer.kind == kind]
        theirs = [(layer.macs, layer.weights, layer.output) for layer in quantized.layers if layer.kind == kind]
        assert mine == theirs
        assert mine
    assert quantized.kept_float == model.kept_float == ()


def test_layers_that_an_int8_network_keeps_float_are_known_and_said(tmp_path: Path) -> None:
    quantizer = harness.Quantizer(DIGITS, "fpga")
    quantizer.calibrate(np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32), layers="needed")
    first = next(layer.name for layer in read_shape(DIGITS).layers if layer.kind == "conv")
    out = tmp_path / "mixed.onnx"
    quantizer.quantize(out, exclude=[first], method="minmax", recover=[])
    kept = read_shape(out).kept_float
    assert kept[0] == first
    assert len(kept) < 3  # a classifier may stay float by rule
    said = harness.estimate(out, dpu="B4096").remarks[0]
    assert said.startswith("counted as if in int8: ")
    assert first in said
    assert harness.estimate(out, bitstream="zcu102_int8").remarks[0] == said
    assert said not in harness.estimate(out, bitstream="zcu102_single").remarks


@pytest.mark.skipif(not MODELS, reason="../shared/data/models is not here")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_real_networks_are_read_whole(path: Path) -> None:
    found = read_shape(path)
    model = onnx.load(path)
    weighted = [n for n in model.graph.node if n.op_type in {"Conv", "ConvTranspose", "Gemm"}]
    names = {member for layer in found.layers for member in layer.members}
    assert {n.name for n in weighted if n.name} <= names
    assert found.operations > 0
    assert all(layer.output.elements > 0 for layer in found.layers)
    for layer in found.layers:
        assert all(parent == "" or parent in {other.name for other in found.layers} for parent in layer.parents)


@pytest.mark.skipif(not MODELS, reason="../shared/data/models is not here")
def test_macs_of_squeezenet_are_those_of_its_paper() -> None:
    found = read_shape(SHARED / "data/models/squeezenet1.1.onnx")
    # forresti/SqueezeNet: 1.1 has 2.4 times less computation than 1.0 (0.72 GFLOPS, by its own count)
    assert found.operations / 1e9 == pytest.approx(0.72, rel=0.04)
    assert sum(layer.weights + layer.biases for layer in found.layers) == 1_235_496  # torchvision's count
    assert {layer.kind for layer in found.layers} == {"conv", "maxpool", "avgpool", "concat", "move", "other"}
