"""Layers with weights, hand-written: the lowered network against the integer reference, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.emulation.reference.checks import INTEGER, agree, often
from tests.harness.emulation.reference.drawing import (
    STYLES,
    Array,
    bias_of,
    integers,
    kinds,
    layer_positions,
    real,
    step,
)
from tests.harness.emulation.reference.written import Written


def activate(draw: st.DrawFn, net: Written, value: str, slopes: list[int], arithmetic: str, span: float) -> str:
    """Perhaps an activation function behind a layer whose outputs span that far; `slopes` is the shape of PRelu's."""
    names = ["none", "Relu", "Clip", "Relu6", "LeakyRelu", "none"]
    if arithmetic != "dpu":
        names += ["PRelu", "HardSigmoid", "HardSwish"]
    name = draw(st.sampled_from(names))
    if name == "none":
        return value
    if name in {"Clip", "Relu6"}:
        low, high = (0.0, 6.0) if name == "Relu6" else (-span * 0.3, draw(st.sampled_from([span * 0.71, 1e30])))
        net.constant("low", np.asarray(low, np.float32))
        net.constant("high", np.asarray(high, np.float32))
        return net.op("Clip", [value, "low", "high"], "activated")
    if name == "LeakyRelu":
        alpha = 0.1 if arithmetic == "dpu" else draw(st.sampled_from([0.1, 0.01, 0.25]))
        return net.op("LeakyRelu", [value], "activated", alpha=alpha)
    if name == "PRelu":
        steep = np.arange(1, slopes[0] + 1, dtype=np.int8).reshape(slopes)
        return net.op("PRelu", [value, net.integers("slopes", steep, 2.0**-5)], "activated")
    if name == "Relu":
        return net.op("Relu", [value], "activated")
    if name == "HardSigmoid":
        return net.op("HardSigmoid", [value], "activated", alpha=float(np.float32(1 / 6)), beta=0.5)
    return net.op("HardSwish", [value], "activated")


@st.composite
def _convolutions(draw: st.DrawFn, arithmetic: str, transposed: bool) -> tuple[Written, dict[str, Array]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.sampled_from([1, 2, 2]))

    def numbers(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, strides, dilations = numbers(1, 3), numbers(1, 2), numbers(1, 2)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    spatial = [size + draw(st.integers(0, 4)) for size in reach]
    pads = numbers(0, 2) + numbers(0, 2)
    group, per_in, per_out = draw(st.sampled_from([(1, 3, 4), (2, 2, 2), (4, 1, 1), (3, 1, 2), (1, 1, 5)]))
    if transposed:
        pads = [min(pad, size - 1) for pad, size in zip(pads, reach * 2, strict=True)]
        spatial = [size + 1 for size in spatial]
    at = draw(layer_positions(arithmetic))
    kind, kind_out = draw(kinds(arithmetic)), draw(kinds(arithmetic))
    style = draw(st.sampled_from(STYLES))
    net = Written()
    data = net.input("x", ["N", group * per_in, *spatial], step(at.into), kind)
    shape: list[int] = [group * per_in, per_out, *kernel] if transposed else [group * per_out, per_in, *kernel]
    weights = net.integers("w", integers(rng, shape, draw(st.sampled_from(STYLES))), step(at.weights))
    inputs = [data, weights]
    if draw(st.booleans()):
        values = bias_of(rng, group * per_out, arithmetic, draw(st.sampled_from(STYLES)))
        inputs.append(net.integers("b", values, step(at.bias)))
    given_attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "group": group,
    }
    if transposed and draw(st.booleans()):
        given_attributes["output_padding"] = [size - 1 for size in strides]
    layer = net.op("ConvTranspose" if transposed else "Conv", inputs, "layer", **given_attributes)
    made = activate(draw, net, layer, [group * per_out] + [1] * rank, arithmetic, 127 * step(at.out))
    net.output(net.pair(made, step(at.out), kind_out))
    feed = real(integers(rng, [2, group * per_in, *spatial], style, kind), step(at.into))
    return net, {"x": feed}


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_convolution(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    net, feed = data.draw(_convolutions(arithmetic, transposed=False))
    agree(net, arithmetic, feed, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_transposed_convolution(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    net, feed = data.draw(_convolutions(arithmetic, transposed=True))
    agree(net, arithmetic, feed, tmp_path, "layer")


@st.composite
def _products(draw: st.DrawFn, arithmetic: str) -> tuple[Written, dict[str, Array]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    at = draw(layer_positions(arithmetic))
    kind, kind_out = draw(kinds(arithmetic)), draw(kinds(arithmetic))
    rows, inner, made = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 17, 1200])), draw(st.integers(1, 5))
    style, weight_style = draw(st.sampled_from(STYLES)), draw(st.sampled_from(STYLES))
    how = draw(st.sampled_from(["Gemm", "MatMul", "MatMul+bias"]))
    net = Written()
    trans_a, trans_b = (draw(st.booleans()), draw(st.booleans())) if how == "Gemm" else (False, False)
    shape = [inner, rows] if trans_a else [rows, inner]
    data = net.input("x", shape, step(at.into), kind)
    weight = integers(rng, [made, inner] if trans_b else [inner, made], weight_style)
    inputs = [data, net.integers("w", weight, step(at.weights))]
    bias = bias_of(rng, made, arithmetic, draw(st.sampled_from(STYLES)))
    if how == "Gemm":
        if draw(st.booleans()):
            bias = bias.reshape(draw(st.sampled_from([[made], [1, made]])))
            inputs.append(net.integers("b", bias, step(at.bias)))
        layer = net.op("Gemm", inputs, "layer", transA=int(trans_a), transB=int(trans_b))
    else:
        layer = net.op("MatMul", inputs, "layer")
        if how == "MatMul+bias":
            layer = net.op("Add", [layer, net.integers("b", bias, step(at.bias))], "biased")
    if draw(st.booleans()):
        layer = net.op("Relu", [layer], "activated")
    net.output(net.pair(layer, step(at.out), kind_out))
    return net, {"x": real(integers(rng, shape, style, kind), step(at.into))}


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_matrix_product(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    net, feed = data.draw(_products(arithmetic))
    agree(net, arithmetic, feed, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_product_of_two_activations(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    at = data.draw(layer_positions(arithmetic))
    kind = data.draw(kinds(arithmetic))
    inner = data.draw(st.sampled_from([1, 5, 1100]))
    net = Written()
    left = net.input("x", [2, 3, inner], step(at.into), kind)
    right = net.input("y", [2, inner, 4], step(at.weights), kind)
    net.output(net.pair(net.op("MatMul", [left, right], "layer"), step(at.out), kind))
    style = data.draw(st.sampled_from(STYLES))
    feed = {
        "x": real(integers(rng, [2, 3, inner], style, kind), step(at.into)),
        "y": real(integers(rng, [2, inner, 4], style, kind), step(at.weights)),
    }
    agree(net, arithmetic, feed, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("cut", [1, 8, 16])
def test_sums_beyond_what_float32_holds(arithmetic: str, cut: int, tmp_path: Path) -> None:
    """1,100 products of -128 and -127 … pass 2^24; odd sums there are what float32 would lose."""
    rng = np.random.default_rng(cut)
    weights = np.full((8, 1100, 1, 1), -127, np.int8)
    weights[:, :64] = rng.integers(-128, 128, (8, 64, 1, 1))
    values = np.full((1, 1100, 4, 4), -128, np.int8)
    values[:, :64] = rng.integers(-128, 128, (1, 64, 4, 4))
    values[:, -1] = rng.integers(-128, 128, (1, 4, 4))
    net = Written()
    data = net.input("x", [1, 1100, 4, 4], 1.0)
    # The bias brings the sum back into the range of the output.
    bias = np.full(8, -127, np.int8) if arithmetic == "dpu" else np.full(8, -(1036 * 128 * 127), np.int32)
    bias_step = 2.0**16 if arithmetic == "dpu" else 1.0
    inputs = [data, net.integers("w", weights, 1.0), net.integers("b", bias, bias_step)]
    net.output(net.pair(net.op("Conv", inputs, "layer"), 2.0**cut))

    found = agree(net, arithmetic, {"x": values.astype(np.float32)}, tmp_path, "layer")

    got = found.reference.integers["layer.quantized"]
    assert arithmetic == "dpu" or cut == 1 or len(np.unique(got)) > 3


@pytest.mark.parametrize(
    ("arithmetic", "expected"), [("dpu", [1, 0, 2, -1, 127, -128]), ("host", [1, -1, 2, -2, 127, -128])]
)
def test_ties_and_limits_are_as_written_down(arithmetic: str, expected: list[int], tmp_path: Path) -> None:
    """0.5, -0.5, 1.5, -1.5 and beyond both ends, in numbers of the page and not of the reference."""
    net = Written()
    data = net.input("x", [6, 1], 1.0)
    weight = net.integers("w", np.array([[1]], np.int8), 1.0)
    bias = net.integers("b", np.array([0], np.int8), 1.0)
    doubled = net.integers("v", np.array([[127]], np.int8), 1.0)
    net.output(net.pair(net.op("Gemm", [data, weight, bias], "layer"), 2.0))
    net.output(net.pair(net.op("Gemm", [data, doubled], "far"), 2.0))
    values = np.array([[1], [-1], [3], [-3], [127], [-128]], np.float32)

    found = agree(net, arithmetic, {"x": values}, tmp_path, "layer", "far")

    assert found.reference.integers["layer.quantized"].ravel().tolist() == [*expected[:4], 64, -64]
    assert found.reference.integers["far.quantized"].ravel().tolist()[4:] == expected[4:]
