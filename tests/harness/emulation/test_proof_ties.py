"""Accumulators placed on purpose: on every tie, one unit beside it, and at the ends of what a carrier holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.harness.emulation.reference import dpu_units
from tests.harness.emulation.reference.checks import INTEGER, agree
from tests.harness.emulation.reference.drawing import Array
from tests.harness.emulation.reference.written import Written

#: Inputs of the layer below: sums of up to 512 of the largest products, and any remainder.
INPUTS = np.array([-128] * 512 + [127, 127, 1, 1], np.int8)


def _weights_for(target: int) -> Array:
    """A row of int8 weights whose product with INPUTS is the target."""
    row = np.zeros(INPUTS.size, np.int64)
    most = min(abs(target) // 16384, 512) if target >= 0 else min(abs(target) // 16256, 512)
    row[:most] = -128 if target >= 0 else 127
    rest = target - int(row @ INPUTS)
    for at in (512, 513, 514, 515):
        size = int(INPUTS[at])
        row[at] = max(-128, min(127, int(rest / size)))
        rest -= int(row[at]) * size
    assert rest == 0, target
    return row.astype(np.int8)


def _around_ties(cut: int, levels: range) -> list[int]:
    """Accumulators at each half step of the output, one unit below and above, as far as INPUTS reach."""
    found = set()
    for level in levels:
        tie = (2 * level + 1) << cut >> 1
        found |= {tie - 1, tie, tie + 1}
    return sorted(total for total in found if abs(total) < 510 * 16256)


def test_weights_reach_their_targets() -> None:
    targets = [0, 1, -1, 255, -4097, 16383, -16255, 2**20 + 17, -(2**22) - 5]
    assert [int(_weights_for(target).astype(np.int64) @ INPUTS.astype(np.int64)) for target in targets] == targets


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 8, 12, 15, 16])
def test_ties_of_a_layer_with_weights(arithmetic: str, relu: bool, cut: int, tmp_path: Path) -> None:
    levels = range(-130, 131) if cut < 12 else range(-128, 128, 3)
    weights = np.stack([_weights_for(total) for total in _around_ties(cut, levels)])
    net = Written()
    inputs = [net.input("x", [1, INPUTS.size], 1.0), net.integers("w", weights, 1.0)]
    made = net.op("Gemm", inputs, "layer", transB=1)
    made = net.op("Relu", [made], "activated") if relu else made
    net.output(net.pair(made, 2.0**cut))

    found = agree(net, arithmetic, {"x": INPUTS.astype(np.float32).reshape(1, -1)}, tmp_path, "layer")

    got = next(found.reference.integers[name] for name in found.compared if name != "x.quantized")
    assert len(np.unique(got)) > (40 if relu else 80)


@pytest.mark.parametrize(("arithmetic", "kind"), [("mathworks", np.int8), ("host", np.int8), ("host", np.uint8)])
@pytest.mark.parametrize("cut", range(0, 24, 2))
def test_ties_that_a_wide_bias_makes(arithmetic: str, kind: type, cut: int, tmp_path: Path) -> None:
    """A bias alone places the accumulator: shifts beyond the DPU's, up to where single precision holds no half."""
    totals = [(2 * level + 1 << cut >> 1) + beside for level in range(-131, 258) for beside in (-1, 0, 1)]
    bias = np.array([total for total in totals if abs(total) < 2**31], np.int32)
    net = Written()
    data = net.input("x", [3, 1], 1.0)
    inputs = [data, net.integers("w", np.full((1, bias.size), 1, np.int8), 1.0), net.integers("b", bias, 1.0)]
    net.output(net.pair(net.op("Gemm", inputs, "layer"), 2.0**cut, kind))

    agree(net, arithmetic, {"x": np.array([[0], [1], [-1]], np.float32)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", ["mathworks", "host"])
@pytest.mark.parametrize("finer", [1, 2, 5])
@pytest.mark.parametrize("cut", [-3, -1, 0, 1, 4])
@pytest.mark.parametrize("relu", [False, True])
def test_a_bias_finer_than_the_sums(arithmetic: str, finer: int, cut: int, relu: bool, tmp_path: Path) -> None:
    """Biases of every level, finer than a unit of the sums, which may itself be several units of the output."""
    bias: Array = np.arange(-128, 128).astype(np.int8)
    net = Written()
    data = net.input("x", [4, 1], 1.0)
    inputs = [data, net.integers("w", np.full((1, 256), 3, np.int8), 1.0), net.integers("b", bias, 2.0**-finer)]
    made = net.op("Gemm", inputs, "layer")
    made = net.op("Relu", [made], "activated") if relu else made
    net.output(net.pair(made, 2.0**cut))

    agree(net, arithmetic, {"x": np.array([[0], [1], [-1], [7]], np.float32)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("channels", [1023, 1024, 1025])
@pytest.mark.parametrize("cut", [1, 16])
def test_sums_around_two_to_the_24(arithmetic: str, channels: int, cut: int, tmp_path: Path) -> None:
    """From 1,024 channels on, sums of the largest products pass what float32 counts to."""
    rng = np.random.default_rng(channels)
    values = np.full((5, channels), -128, np.int8)
    values[1, 0], values[2, :2], values[3] = -127, -127, 127
    values[4] = rng.integers(-128, 128, channels)
    weights = np.full((channels, 4), -128, np.int8)
    weights[0, 1], weights[:2, 2], weights[:, 3] = -127, 127, rng.integers(-128, 128, channels)
    net = Written()
    inputs = [net.input("x", values.shape, 1.0), net.integers("w", weights, 1.0)]
    if arithmetic != "dpu":
        # Brings sums of 2^24 and around back to the outputs' range, so that each unit shows.
        inputs.append(net.integers("b", np.array([-(2**24), -(2**24) + 127, -(2**24), 0], np.int32), 1.0))
    net.output(net.pair(net.op("Gemm", inputs, "layer"), 2.0**cut))

    agree(net, arithmetic, {"x": values.astype(np.float32)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("kernel", [(3,), (5,), (7,), (2, 3), (3, 3), (5, 5), (6, 6), (7, 7), (14, 14)])
@pytest.mark.parametrize("finer", [0, 2])
def test_every_sum_of_an_average(arithmetic: str, kernel: tuple[int, ...], finer: int, tmp_path: Path) -> None:
    """Windows that hold each possible sum (a sample of 1,500 where there are more)."""
    count = int(np.prod(kernel))
    sums = np.arange(-128 * count, 127 * count + 1)
    if sums.size > 1500:
        sums = np.random.default_rng(count).choice(sums, 1500, replace=False)
    base, rest = np.divmod(sums[:, None], count)
    windows = base + (np.arange(count) < rest)
    assert (windows.sum(axis=1) == sums).all()
    # Windows beside one another along the last axis.
    values = np.moveaxis(windows.reshape(-1, *kernel), 0, -2).reshape(1, 1, *kernel[:-1], -1)
    net = Written()
    name = net.input("x", values.shape, 1.0)
    made = net.op("AveragePool", [name], "layer", kernel_shape=list(kernel), strides=list(kernel))
    net.output(net.pair(made, 2.0**-finer))

    found = agree(net, arithmetic, {"x": values.astype(np.float32)}, tmp_path, "layer")

    if arithmetic == "dpu" and finer == 0:
        factor = dpu_units.pooling_factor(kernel)
        exact = [min(127, max(-128, (2 * int(total) * factor + 1) // 2)) for total in sums]
        assert found.reference.integers["layer.quantized"].ravel().tolist() == exact


@pytest.mark.parametrize("arithmetic", INTEGER)
def test_entering_beside_every_tie(arithmetic: str, tmp_path: Path) -> None:
    ties = np.arange(-130, 260).astype(np.float32) + np.float32(0.5)
    values = np.r_[ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
    net = Written()
    kind = np.uint8 if arithmetic == "host" else np.int8
    weight = net.integers("w", np.array([[1]], np.int8), 1.0)
    made = net.op("MatMul", [net.input("x", [values.size, 1], 1.0, kind), weight], "layer")
    net.output(net.pair(made, 1.0, kind))

    found = agree(net, arithmetic, {"x": values.reshape(-1, 1)}, tmp_path, "layer")

    limits = np.iinfo(kind)
    exact = values.astype(np.float64)
    expected = np.clip(np.sign(exact) * np.floor(np.abs(exact) + 0.5), limits.min, limits.max)
    assert np.array_equal(found.reference.integers["x.quantized"].ravel(), expected)
