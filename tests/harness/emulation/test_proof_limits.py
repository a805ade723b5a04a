"""The shifts that the DPU's compiler takes: the last one inside is in integers, the first one outside in software."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.harness.emulation.reference.agreement import compare
from tests.harness.emulation.reference.drawing import integers, real, step
from tests.harness.emulation.reference.written import Written

OUTSIDE = [(-1, None), (17, None), (4, 17), (4, -13), (0, -17), (16, -1), (10, -7)]
INSIDE = [(0, None), (16, None), (4, 16), (4, -12), (0, -16), (16, 0), (10, -6)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("cut", "bias_shift", "inside"), [(*case, False) for case in OUTSIDE] + [(*case, True) for case in INSIDE]
)
@pytest.mark.parametrize("how", ["Conv", "Gemm", "MatMul"])
def test_shifts_of_a_layer_with_weights(
    how: str, cut: int, bias_shift: int | None, inside: bool, relu: bool, tmp_path: Path
) -> None:
    into, weights = 5, 7
    rng = np.random.default_rng(abs(cut) + 100)
    spatial = [4, 4] if how == "Conv" else []
    shape = [6, 8, 1, 1] if how == "Conv" else [8, 6]
    net = Written()
    inputs = [
        net.input("x", ["N", 8, *spatial], step(into)),
        net.integers("w", integers(rng, shape, "any"), step(weights)),
    ]
    bias = [net.integers("b", integers(rng, [6], "any"), step(into + weights - (bias_shift or 0)))]
    if bias_shift is None:
        made = net.op(how, inputs, "layer")
    elif how == "MatMul":
        made = net.op("Add", [net.op(how, inputs, "layer"), *bias], "biased")
    else:
        made = net.op(how, inputs + bias, "layer")
    made = net.op("Relu", [made], "activated") if relu else made
    net.output(net.pair(made, step(into + weights - cut)))
    values = real(integers(rng, [3, 8, *spatial], "any"), step(into))

    found = compare(net.save(tmp_path / "net.onnx"), "dpu", {"x": values})
    elsewhere = compare(tmp_path / "net.onnx", "mathworks", {"x": values})

    assert found.differing == elsewhere.differing == {}
    assert ("layer" in found.hardware) is inside, found.lowered.notices
    # The page's own limits, as the reference knows them, say the same.
    assert ("layer" in found.reference.software) is not inside
    assert "layer" in elsewhere.hardware


@pytest.mark.parametrize("op_type", ["Add", "Sub"])
@pytest.mark.parametrize(
    ("first", "second", "out", "inside"),
    [
        (0, 15, 8, True),
        (0, 16, 8, False),
        (15, 0, 8, True),
        (16, 0, 8, False),
        (2, 2, -13, True),
        (2, 2, -14, False),
        (2, 2, 17, True),
        (2, 2, 18, False),
    ],
)
def test_shifts_of_a_sum(op_type: str, first: int, second: int, out: int, inside: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    net = Written()
    inputs = [net.input("x", ["N", 50], step(first)), net.input("y", ["N", 50], step(second))]
    net.output(net.pair(net.op(op_type, inputs, "layer"), step(out)))
    feed = {
        "x": real(integers(rng, [4, 50], "any"), step(first)),
        "y": real(integers(rng, [4, 50], "any"), step(second)),
    }

    found = compare(net.save(tmp_path / "net.onnx"), "dpu", feed)
    elsewhere = compare(tmp_path / "net.onnx", "host", feed)

    assert found.differing == elsewhere.differing == {}
    assert ("layer" in found.hardware) is inside, found.lowered.notices
    assert ("layer" in found.reference.software) is not inside
    assert "layer" in elsewhere.hardware


def test_what_is_in_software_enters_again(tmp_path: Path) -> None:
    """A layer past the limits rounds its floats half away from zero, where a layer of the DPU rounds half up."""
    net = Written()
    data = net.input("x", [256, 1], 1.0)
    layers = {}
    for name, bias_shift in (("inside", 0), ("outside", 17)):
        weight = net.integers(f"{name}.w", np.array([[1]], np.int8), 1.0)
        bias = net.integers(f"{name}.b", np.array([0], np.int8), step(-bias_shift))
        layers[name] = net.pair(net.op("Gemm", [data, weight, bias], name), 2.0)
        net.output(layers[name])
    levels = np.arange(-128, 128, dtype=np.float32).reshape(-1, 1)

    found = compare(net.save(tmp_path / "net.onnx"), "dpu", {"x": levels})

    assert found.differing == {}
    results = {name: found.reference.integers[f"{name}.quantized"].ravel() for name in layers}
    odd_below_zero = (levels.ravel() < 0) & (levels.ravel() % 2 != 0)
    assert np.array_equal(results["inside"] != results["outside"], odd_below_zero)
