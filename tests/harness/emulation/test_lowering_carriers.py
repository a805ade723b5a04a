"""What holds the sums: chosen by their bounds, exact whatever the runtime's optimizer does."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from harness.emulation.lowered import Lowered
from tests.harness.emulation.lowering_cases import Network, convolution, integers_of, lowered

_SIZES = {100: "float32", 2300: "float64", 20_000: "float64"}


def _wide(length: int, rng: np.random.Generator) -> tuple[ModelProto, np.ndarray, np.ndarray]:
    """A convolution of `length` products a sum, its weights and its data; half of the weights as large as they get."""
    weights = rng.integers(-128, 128, (3, length, 1, 1)).astype(np.int8)
    weights[:, ::2] = -128
    data = rng.integers(-128, 128, (1, length, 2, 2))
    data[0, :, 0, 0] = -128
    data[0, :, 0, 1] = 127
    exponent = -int(np.ceil(np.log2(length))) - 7
    model = convolution(weights, np.array([-3, 0, 127], np.int8), (exponent, 0, exponent, 0), data.shape, relu=False)
    return model, weights, data


@pytest.mark.parametrize(("length", "carrier"), _SIZES.items())
@pytest.mark.parametrize("arithmetic", ["mathworks", "host"])
def test_sums_beyond_single_precision_are_taken_in_double(arithmetic: str, length: int, carrier: str) -> None:
    model, weights, data = _wide(length, np.random.default_rng(length))
    found = lowered(model, arithmetic)
    (layer,) = found.layers
    assert layer.carrier == carrier
    exponent = -int(np.ceil(np.log2(length))) - 7
    sums = np.einsum("oi,nihw->nohw", weights[:, :, 0, 0].astype(np.int64), data) + np.array([-3, 0, 127]).reshape(
        3, 1, 1
    )
    rounded = (2 * np.abs(sums) + 2**-exponent) // 2 ** (1 - exponent)
    values = integers_of(found, {"x": (data * 2.0**exponent).astype(np.float32)})
    np.testing.assert_array_equal(values["layer"], np.clip(np.sign(sums) * rounded, -128, 127))


@pytest.mark.parametrize("length", [40, 5000])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_step_for_each_output_channel(op_type: str, length: int) -> None:
    rng = np.random.default_rng(length)
    weights = rng.integers(-128, 128, (length, 3)).astype(np.int8)
    exponents = np.array([-13, -11, -12])
    shapes = {"Conv": (3, length, 1, 1), "ConvTranspose": (length, 3, 1, 1)}
    axis = 0 if op_type == "Conv" else 1
    stored = (weights.T if op_type == "Conv" else weights).reshape(shapes.get(op_type, weights.shape))
    shape = (1, length, 1, 1) if op_type in shapes else (1, length)
    network = Network()
    network.constants |= {"w": stored, "w.s": (2.0**exponents).astype(np.float32)}
    network.node("DequantizeLinear", ["w", "w.s"], "w.d", axis=axis)
    made = network.node(op_type, [network.pair("x", -5), "w.d"], "layer")
    model = network.model({"x": shape}, [network.pair(made, -4)])
    x = rng.integers(-128, 128, (1, length))
    found = lowered(model, "host")
    assert [layer.carrier for layer in found.layers] == ["float32" if length == 40 else "float64"]
    values = integers_of(found, {"x": (x / 32).astype(np.float32).reshape(shape)})["layer"].reshape(3)
    sums = (x @ weights.astype(np.int64))[0] * 2 ** (exponents + 13)  # in steps of 2^-18; the result's are 2^-4
    expected = np.sign(sums) * ((2 * np.abs(sums) + 2**14) // 2**15)
    np.testing.assert_array_equal(values, np.clip(expected, -128, 127))


def _run(found: Lowered, level: onnxruntime.GraphOptimizationLevel, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """As any ONNX Runtime runs it: nothing is switched off by name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(found.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


@pytest.mark.parametrize("int8_kernels", [False, True])
@pytest.mark.parametrize("arithmetic", ["dpu", "mathworks", "host", "gpu"])
def test_no_optimizer_changes_a_value(arithmetic: str, int8_kernels: bool) -> None:
    rng = np.random.default_rng(7)
    network = Network()
    here = network.pair("x", -5)
    for number, (inputs, outputs) in enumerate([(8, 16), (16, 16), (16, 8)]):
        weights = network.integers(f"w{number}", rng.integers(-128, 128, (outputs, inputs, 3, 3)).astype(np.int8), -9)
        bias = f"b{number}"
        if arithmetic == "gpu":
            network.constants[bias] = rng.normal(size=outputs).astype(np.float32)
        else:
            bias = network.integers(bias, rng.integers(-128, 128, outputs).astype(np.int8), -6)
        made = network.node("Conv", [here, weights, bias], f"conv{number}", pads=[1, 1, 1, 1])
        if number != 1:
            made = network.node("Relu", [made], f"relu{number}")
        here = network.pair(made, -4)
    summed = network.node("Add", [here, network.node("MaxPool", [here], "pool", kernel_shape=[1, 1])], "sum")
    model = network.model({"x": [1, 8, 12, 12]}, [network.pair(summed, -3)])
    found = lowered(model, arithmetic, int8_kernels=int8_kernels)
    feed = {"x": rng.normal(size=(1, 8, 12, 12)).astype(np.float32)}
    levels = onnxruntime.GraphOptimizationLevel
    plain = _run(found, levels.ORT_DISABLE_ALL, feed)
    assert np.unique(plain[0]).size > 20
    for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL):
        for one, other in zip(plain, _run(found, level, feed), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("relu", "dtype", "signed"), [(True, np.int8, True), (False, np.int8, False), (True, np.uint8, False)]
)
def test_signed_weights_only_where_two_products_stay_below_16_bits(relu: bool, dtype: type, signed: bool) -> None:
    """x86 without VNNI adds two products of unsigned and signed bytes in 16 bits, and saturates."""
    rng = np.random.default_rng(3)
    network = Network()
    here = network.pair("x", -3)
    for name in ("first", "second"):
        weights = rng.integers(-128, 128, (4, 4, 1, 1)).astype(np.int8)
        weights[0] = -128
        made = network.node("Conv", [here, network.integers(f"{name}.w", weights, -7)], name)
        if relu:
            made = network.node("Relu", [made], f"{name}.relu")
        here = network.pair(made, -3, dtype)
    model = network.model({"x": [1, 4, 3, 3]}, [here])
    found = lowered(model, "dpu" if dtype is np.int8 else "host", int8_kernels=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.model.graph.initializer}
    kinds = [constants[node.input[3]].dtype for node in found.model.graph.node if node.op_type == "QLinearConv"]
    assert kinds == [np.uint8, np.int8 if signed else np.uint8]
