"""Layers recomputed with one thing wrong, against loops over Python integers and fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.emulation.arithmetic import find_arithmetic
from harness.emulation.diagnose.hypotheses import explain
from harness.emulation.diagnose.layer import Int64, read_layer
from harness.emulation.diagnose.points import find_points, given_name, step_by_step
from harness.emulation.diagnose.recompute import Recomputation, Round, recompute, round_by
from harness.emulation.diagnose.sums import Product, product_of
from harness.quantize.graph import Graph
from harness.quantize.preparation import infer_types

DPU = find_arithmetic("dpu")
#: Half-up is the DPU's own, and half-away is the same where nothing is negative.
OTHER_ROUNDINGS = [rule for rule in Round if rule not in {Round.HALF_UP, Round.HALF_AWAY}]
SHAPE = (2, 3, 5, 4)


def exactly(rule: Round, value: Fraction) -> int:
    """The rounding once more, from its definition."""
    below = math.floor(value)
    rest = value - below
    if rule is Round.FLOOR:
        return below
    if rule is Round.CEILING:
        return math.ceil(value)
    if rule is Round.TOWARD_ZERO:
        return math.trunc(value)
    if rest != Fraction(1, 2):
        return below if rest < Fraction(1, 2) else below + 1
    if rule is Round.HALF_UP:
        return below + 1
    if rule is Round.HALF_DOWN:
        return below
    if rule is Round.HALF_EVEN:
        return below if below % 2 == 0 else below + 1
    return below + 1 if value > 0 else below


@given(st.sampled_from(Round), st.integers(-(2**20), 2**20), st.integers(0, 10))
def test_roundings_are_what_they_are_called(rule: Round, numerator: int, shift: int) -> None:
    value = Fraction(numerator, 2**shift)
    assert int(round_by(rule, np.array([float(value)]))[0]) == exactly(rule, value)


def network(
    node: NodeProto, weights: Int64, bias: Int64 | None, *, relu: bool = False, x_zero: int | None = None
) -> ModelProto:
    """One int8 layer between a quantized input and a quantized output, steps 2^-2, 2^-3, 2^-4 (bias) and 2^-1."""
    kind = np.int8 if x_zero is None else np.uint8
    stored = {
        "x.scale": np.float32(0.25), "x.zero": kind(x_zero or 0),
        "w.int": weights.astype(np.int8), "w.scale": np.float32(0.125), "w.zero": np.int8(0),
        "y.scale": np.float32(0.5), "y.zero": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "x.scale", "x.zero"], ["x.d"]),
        helper.make_node("DequantizeLinear", ["w.int", "w.scale", "w.zero"], ["w"]),
    ]
    if bias is not None:
        stored |= {"b.int": bias.astype(np.int8), "b.scale": np.float32(0.0625), "b.zero": np.int8(0)}
        nodes.append(helper.make_node("DequantizeLinear", ["b.int", "b.scale", "b.zero"], ["b"]))
    nodes.append(node)
    if relu:
        nodes.append(helper.make_node("Relu", ["y0"], ["y1"], "relu"))
    nodes += [
        helper.make_node("QuantizeLinear", ["y1" if relu else "y0", "y.scale", "y.zero"], ["y.q"]),
        helper.make_node("DequantizeLinear", ["y.q", "y.scale", "y.zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolution() -> NodeProto:
    return helper.make_node("Conv", ["x.d", "w", "b"], ["y0"], "conv")


def integers(*shape: int, low: int = -128, high: int = 128, seed: int = 1) -> Int64:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int64)


def recomputed(model: ModelProto, x: Int64) -> Recomputation:
    graph = Graph(model)
    layer = read_layer(graph, "y.q")
    assert layer is not None
    found = recompute(layer, {"x.q": x}, (), DPU)
    assert found is not None
    return found


def by_hand(
    x: Int64,
    weights: Int64,
    bias: Int64,
    finish: Callable[[int, int], int],
    *,
    pad: int = 0,
    combine: Callable[[list[tuple[int, int]]], int] | None = None,
) -> Int64:
    """A 2-D convolution, stride 1, one value after the other; `finish(sum, channel)` makes the integer."""
    count, channels, height, width = x.shape
    outputs, _, rows, columns = weights.shape
    wide = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    made = np.zeros((count, outputs, height + 2 * pad - rows + 1, width + 2 * pad - columns + 1), np.int64)
    for n, o, i, j in itertools.product(*(range(size) for size in made.shape)):
        terms = [
            (int(wide[n, c, i + k, j + m]), int(weights[o, c, k, m]))
            for k in range(rows)
            for m in range(columns)
            for c in range(channels)
        ]
        made[n, o, i, j] = finish(combine(terms) if combine else sum(a * b for a, b in terms), o)
    return made


def finishing(
    bias: Int64,
    *,
    rule: Round = Round.HALF_UP,
    bias_change: Callable[[int], int] = int,
    relu: bool = True,
    wrap: bool = False,
) -> Callable[[int, int], int]:
    """Sum at 2^-5, bias at 2^-4, result at 2^-1, from docs/emulation.md."""

    def finish(total: int, channel: int) -> int:
        real = Fraction(total, 32) + Fraction(bias_change(int(bias[channel])), 16)
        if relu:
            real = max(real, Fraction(0))
        whole = exactly(rule, real / Fraction(1, 2))
        return (whole + 128) % 256 - 128 if wrap else min(max(whole, -128), 127)

    return finish


WEIGHTS = integers(4, 3, 2, 2, low=-12, high=13, seed=2)
BIAS = np.array([5, -7, 31, 2])
X = integers(*SHAPE, low=-40, high=41, seed=3)


def names(board: Int64, *, relu: bool = True) -> set[str]:
    model = network(convolution(), WEIGHTS, BIAS, relu=relu)
    return {kind.name for kind in explain(recomputed(model, X), board)}


def test_the_layer_itself_is_recomputed_exactly() -> None:
    found = recomputed(network(convolution(), WEIGHTS, BIAS, relu=True), X)
    made = found.integers(found.whole, found.way)
    assert made is not None
    assert np.array_equal(made, by_hand(X, WEIGHTS, BIAS, finishing(BIAS)).reshape(-1))


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        *((f"rounding {rule}", finishing(BIAS, rule=rule)) for rule in OTHER_ROUNDINGS),
        ("bias +1", finishing(BIAS, bias_change=lambda b: b + 1)),
        ("bias -1", finishing(BIAS, bias_change=lambda b: b - 1)),
        ("bias shifted left by one bit", finishing(BIAS, bias_change=lambda b: 2 * b)),
        ("bias shifted right by one bit", finishing(BIAS, bias_change=lambda b: b >> 1)),
        ("bias missing", finishing(BIAS, bias_change=lambda _: 0)),
        ("bias negated", finishing(BIAS, bias_change=lambda b: -b)),
        ("Relu missing", finishing(BIAS, relu=False)),
        ("wraps around", finishing(BIAS, wrap=True)),
        ("bias missing and rounding half-even", finishing(BIAS, rule=Round.HALF_EVEN, bias_change=lambda _: 0)),
    ],
)  # fmt: skip
def test_each_mistake_is_named(name: str, finish: Callable[[int, int], int]) -> None:
    wrong = by_hand(X * 4 if name == "wraps around" else X, WEIGHTS, BIAS, finish)
    model = network(convolution(), WEIGHTS, BIAS, relu=True)
    found = {kind.name for kind in explain(recomputed(model, X * 4 if name == "wraps around" else X), wrong)}
    assert name in found
    # half-up and half-away, half-down and toward-zero agree on what ReLU leaves: several names, none of them wrong
    assert len(found) <= 3, found


def test_ties_away_from_zero_are_told_from_ties_upwards_where_values_are_negative() -> None:
    board = by_hand(X, WEIGHTS, BIAS, finishing(BIAS, rule=Round.HALF_AWAY, relu=False))
    assert names(board, relu=False) == {"rounding half-away"}
    behind_relu = by_hand(X, WEIGHTS, BIAS, finishing(BIAS, rule=Round.HALF_AWAY))
    assert names(behind_relu) == set()  # no value differs: nothing is wrong


def test_a_mistake_of_one_channel_is_named_with_it() -> None:
    right = by_hand(X, WEIGHTS, BIAS, finishing(BIAS))
    wrong = right.copy()
    wrong[:, 2] = by_hand(X, WEIGHTS, BIAS, finishing(BIAS, bias_change=lambda _: 0))[:, 2]
    assert names(wrong) == {"bias missing (in channel 2 only)"}


def test_noise_has_no_name() -> None:
    right = by_hand(X, WEIGHTS, BIAS, finishing(BIAS))
    noise = np.random.default_rng(7).integers(-1, 2, right.shape)
    assert names(np.clip(right + noise, 0, 127)) == set()


def test_a_zero_point_of_the_weights_left_in_is_named() -> None:
    def shifted(terms: list[tuple[int, int]]) -> int:
        return sum(x * (w + 1) for x, w in terms)

    wrong = by_hand(X, WEIGHTS, BIAS, finishing(BIAS), combine=shifted)
    assert "zero point of the weights off by 1" in names(wrong)


def saturating(terms: list[tuple[int, int]]) -> int:
    """vpmaddubsw: neighbours add in 16 bits with saturation; what is left over has no partner."""
    total = 0
    for at in range(0, len(terms), 2):
        total += min(max(sum(x * w for x, w in terms[at : at + 2]), -32768), 32767)
    return total


@pytest.mark.parametrize("channels", [4, 3])  # neighbours are channels, or reach across to the next kernel element
@pytest.mark.parametrize("zero", [0, 117])
def test_pairs_saturate_as_the_instruction_does(channels: int, zero: int) -> None:
    x = integers(1, channels, 4, 4, low=150, high=256, seed=4)
    weights = integers(3, channels, 2, 2, low=20, high=128, seed=5)
    model = network(convolution(), weights, np.zeros(3, np.int64), x_zero=zero)
    layer = read_layer(Graph(model), "y.q")
    assert layer is not None
    product = product_of(layer, {"x.q": x})
    assert isinstance(product, Product)
    sums = by_hand(x, weights, BIAS, lambda total, _: total, combine=saturating)
    offset = zero * weights.sum(axis=(1, 2, 3))
    assert np.array_equal(product.paired, sums - offset.reshape(1, -1, 1, 1))
    assert not np.array_equal(product.paired, product.accumulator)


@pytest.mark.parametrize(
    ("op_type", "weight_shape", "attributes"),
    [
        ("Conv", (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ("Conv", (6, 2, 3, 2), {"group": 2, "dilations": [1, 2]}),
        ("Conv", (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        ("ConvTranspose", (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 0]}),
        ("ConvTranspose", (4, 2, 2, 3), {"group": 2, "dilations": [2, 1]}),
    ],
)
def test_sums_are_those_of_the_runtime(op_type: str, weight_shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Small integers in float32 are exact, so the runtime's own float operator tells."""
    node = helper.make_node(op_type, ["x.d", "w"], ["y0"], "layer", **attributes)
    weights, x = integers(*weight_shape, low=-9, high=10, seed=8), integers(2, 4, 7, 6, seed=9)
    layer = read_layer(Graph(network(node, weights, None)), "y.q")
    assert layer is not None
    product = product_of(layer, {"x.q": x})
    assert product is not None
    plain = helper.make_node(op_type, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [plain],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.astype(np.float32)})
    assert np.array_equal(product.accumulator, expected)


def test_points_are_named_after_the_operator_in_front_of_what_is_fused() -> None:
    points = find_points(network(convolution(), WEIGHTS, BIAS, relu=True))
    assert [(p.tensor, p.layer, p.op_type) for p in points] == [("x.q", "x", "Input"), ("y.q", "conv", "Conv")]


def test_a_layer_alone_starts_from_the_integers_it_is_given() -> None:
    """Fed other integers than the input would become, the layer's result is that of those integers."""
    model = network(convolution(), WEIGHTS, BIAS)
    cut = step_by_step(model, infer_types(model), ["x.q", "y.q"])
    session = ort.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])
    zeros: NDArray[np.float32] = np.zeros(SHAPE, np.float32)
    feed = {"x": zeros, given_name("x.q"): X.astype(np.int8), given_name("y.q"): np.zeros((2, 4, 4, 3), np.int8)}
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    assert not found["x.q"].any()
    expected = by_hand(X, WEIGHTS, BIAS, finishing(BIAS, rule=Round.HALF_EVEN, relu=False))
    assert np.array_equal(found["y.q"], expected)


def test_a_shortcut_under_the_gpu_rules_is_part_of_the_layer() -> None:
    """y = fl(fl(fl(acc)*m) + b), a shortcut q*s beside it in single precision, ReLU, half to even."""
    x_step, w_steps = np.float32(0.013), np.array([0.002, 0.0031, 0.0017, 0.004], np.float32)
    bias, step, out = np.array([0.3, -0.2, 0.05, 1.1], np.float32), np.float32(0.021), np.float32(0.037)
    stored = {
        "x.s": x_step, "z": np.int8(0), "w.q": WEIGHTS.astype(np.int8), "w.s": w_steps,
        "w.z": np.zeros(4, np.int8), "b": bias, "r.s": step, "y.s": out,
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.s", "z"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "x.s", "z"], ["x.d"]),
        helper.make_node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"], axis=0),
        helper.make_node("QuantizeLinear", ["r", "r.s", "z"], ["r.q"]),
        helper.make_node("DequantizeLinear", ["r.q", "r.s", "z"], ["r.d"]),
        helper.make_node("Conv", ["x.d", "w", "b"], ["c"], "conv"),
        helper.make_node("Add", ["r.d", "c"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["y0"], "relu"),
        helper.make_node("QuantizeLinear", ["y0", "y.s", "z"], ["y.q"]),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "r")],
        [helper.make_tensor_value_info("y.q", TensorProto.INT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert [point.layer for point in find_points(model)] == ["x", "r", "conv"]
    layer = read_layer(Graph(model), "y.q")
    assert layer is not None
    shortcut = integers(2, 4, 4, 3, seed=12)
    found = recompute(layer, {"x.q": X, "r.q": shortcut}, (), find_arithmetic("gpu"))
    assert found is not None

    def value(place: tuple[int, ...], *, added: bool) -> int:
        n, o, i, j = place
        acc = np.float32(int((X[n, :, i : i + 2, j : j + 2] * WEIGHTS[o]).sum()))
        y = np.float32(np.float32(acc * (x_step * w_steps[o])) + bias[o])
        if added:
            y = np.float32(y + np.float32(np.float32(shortcut[place]) * step))
        return int(min(np.rint(max(y, np.float32(0)) / out), 127))

    places = list(np.ndindex(shortcut.shape))
    expected = np.array([value(place, added=True) for place in places])
    made = found.integers(found.whole, found.way)
    assert made is not None
    assert np.array_equal(made, expected)
    without = np.array([value(place, added=False) for place in places])
    assert "shortcut missing" in {kind.name for kind in explain(found, without)}
