"""The arithmetic `gpu`: integers in, one single-precision epilogue out, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.emulation.reference.agreement import compare
from tests.harness.emulation.reference.checks import agree, often
from tests.harness.emulation.reference.drawing import STYLES, Array, integers, real
from tests.harness.emulation.reference.written import Written

#: Steps as TensorRT has them: any single-precision number.
_steps = st.floats(2**-12, 4, width=32)


def _channel_steps(rng: np.random.Generator, count: int) -> Array:
    return (2 ** rng.uniform(-10, 1, count)).astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@often
@given(data=st.data())
def test_convolution(transposed: bool, data: st.DataObject, tmp_path: Path) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rank = data.draw(st.sampled_from([1, 2]))
    kernel, strides, dilations = ([data.draw(st.integers(1, high)) for _ in range(rank)] for high in (3, 2, 2))
    spatial = [(size - 1) * dilation + 2 for size, dilation in zip(kernel, dilations, strict=True)]
    pads = [data.draw(st.integers(0, min(size - 1, 1))) for size in kernel * 2]
    group, per_in, per_out = data.draw(st.sampled_from([(1, 3, 4), (2, 2, 2), (4, 1, 1), (1, 40, 3)]))
    of_input = data.draw(_steps)
    net = Written()
    name = net.input("x", ["N", group * per_in, *spatial], of_input)
    shape = [group * per_in, per_out, *kernel] if transposed else [group * per_out, per_in, *kernel]
    # A step per channel of every group: nobody writes that, harness.quantize takes one step there.
    per_channel = data.draw(st.booleans()) and not (transposed and group > 1)
    axis = (1 if transposed else 0) if per_channel else None
    steps = _channel_steps(rng, shape[axis]) if axis is not None else np.float32(data.draw(_steps))
    inputs = [name, net.integers("w", integers(rng, shape, data.draw(st.sampled_from(STYLES))), steps, axis)]
    if data.draw(st.booleans()):
        inputs.append(net.constant("b", rng.normal(size=group * per_out).astype(np.float32)))
    made = net.op(
        "ConvTranspose" if transposed else "Conv",
        inputs,
        "layer",
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
    )
    if data.draw(st.booleans()):
        made = net.op("Relu", [made], "activated")
    net.output(made)
    values = rng.normal(size=[2, group * per_in, *spatial]) * 60 * of_input
    agree(net, "gpu", {"x": values.astype(np.float32)}, tmp_path, "layer")


@often
@given(data=st.data())
def test_matrix_product(data: st.DataObject, tmp_path: Path) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inner, made = data.draw(st.sampled_from([1, 7, 300, 1200])), data.draw(st.integers(1, 6))
    of_input, gemm = data.draw(_steps), data.draw(st.booleans())
    trans_b = gemm and data.draw(st.booleans())
    net = Written()
    name = net.input("x", ["N", inner], of_input)
    weight = integers(rng, [made, inner] if trans_b else [inner, made], data.draw(st.sampled_from(STYLES)))
    inputs = [name, net.integers("w", weight, _channel_steps(rng, made), 0 if trans_b else 1)]
    bias = net.constant("b", rng.normal(size=made).astype(np.float32) * np.float32(of_input))
    if gemm:
        layer = net.op("Gemm", [*inputs, bias], "layer", transB=int(trans_b))
    else:
        layer = net.op("Add", [net.op("MatMul", inputs, "layer"), bias], "biased")
    net.output(layer)
    values = real(integers(rng, [3, inner], data.draw(st.sampled_from(STYLES))), of_input)
    agree(net, "gpu", {"x": values}, tmp_path, "layer")


@often
@given(data=st.data())
def test_product_of_two_activations(data: st.DataObject, tmp_path: Path) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    first, second = data.draw(_steps), data.draw(_steps)
    net = Written()
    names = [net.input("x", [2, 3, 1200], first), net.input("y", [2, 1200, 4], second)]
    net.output(net.op("MatMul", names, "layer"))
    style = data.draw(st.sampled_from(STYLES))
    feed = {
        "x": real(integers(rng, [2, 3, 1200], style), first),
        "y": real(integers(rng, [2, 1200, 4], style), second),
    }
    agree(net, "gpu", feed, tmp_path, "layer")


@often
@given(data=st.data())
def test_residual_sum_is_single_precision(data: st.DataObject, tmp_path: Path) -> None:
    """Two layers, the shortcut quantized, ReLU, and a third layer that quantizes the sum again."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    steps = [data.draw(_steps) for _ in range(3)]
    net = Written()
    name = net.input("x", ["N", 4, 5, 5], steps[0])
    weights = [
        net.integers(f"w{index}", integers(rng, [4, 4, 3, 3], "any"), _channel_steps(rng, 4), 0) for index in range(2)
    ]
    bias = net.constant("b", rng.normal(size=4).astype(np.float32))
    made = net.op("Conv", [name, weights[0], bias], "first", pads=[1] * 4)
    total = net.op("Relu", [net.op("Add", [made, name], "sum")], "activated")
    net.output(net.op("Conv", [net.pair(total, steps[1]), weights[1]], "second", pads=[1] * 4))
    values = real(integers(rng, [2, 4, 5, 5], data.draw(st.sampled_from(STYLES))), steps[0])
    agree(net, "gpu", {"x": values}, tmp_path, "first", "second")


@pytest.mark.parametrize("value", [np.inf, -np.inf, 0.5, 1.5, -0.5, 2.5, 0.49999997])
def test_ties_go_to_even(value: float, tmp_path: Path) -> None:
    net = Written()
    name = net.input("x", [1, 1], 1.0)
    net.output(net.op("MatMul", [name, net.integers("w", np.array([[1]], np.int8), 1.0)], "layer"))

    found = compare(net.save(tmp_path / "net.onnx"), "gpu", {"x": np.array([[value]], np.float32)})

    expected = {np.inf: 127, -np.inf: -128, 0.5: 0, 1.5: 2, -0.5: 0, 2.5: 2, 0.49999997: 0}
    assert found.differing == {}
    assert found.reference.outputs["layer"].item() == expected[value]
