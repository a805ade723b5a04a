"""Every rounding of the lowering, at ties, beside ties and beyond the integers, against whole-number arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.emulation.lowered import Lowered
from tests.harness.emulation.lowering_cases import Network, convolution, integers_of, lowered

_ARITHMETICS = ("dpu", "mathworks", "host")


def _reference(accumulators: NDArray[np.int64], shift: int, *, up: bool, relu: bool) -> NDArray[np.int64]:
    """clip(R(acc / 2^shift)) in whole numbers: floor((2·acc + 2^shift) / 2^(shift + 1))."""
    if relu:
        accumulators = np.maximum(accumulators, 0)
    sizes = accumulators if up else np.abs(accumulators)
    rounded = (2 * sizes + 2**shift) // 2 ** (shift + 1)
    return np.asarray(np.clip(rounded if up else np.sign(accumulators) * rounded, -128, 127))


@pytest.mark.parametrize("arithmetic", _ARITHMETICS)
def test_floats_enter_half_away(arithmetic: str) -> None:
    network = Network()
    network.pair("x", -2)
    ties = np.arange(-131, 131, 0.5).astype(np.float32) / 4
    beside = [np.nextafter(ties, np.float32(bound)) for bound in (-np.inf, np.inf)]
    edges = np.array([0.49999997, -0.49999997, np.inf, -np.inf, 3e38, 1e-45, -1e-45, -0.0], np.float32)
    edges[:2] /= 4
    x = np.concatenate([ties, *beside, edges])
    model = network.model({"x": x.shape}, ["x.d"])
    found = integers_of(lowered(model, arithmetic), {"x": x})["x.d"] * 4
    exact = x.astype(np.float64) * 4
    np.testing.assert_array_equal(found, np.clip(np.sign(exact) * np.floor(np.abs(exact) + 0.5), -128, 127))


@pytest.mark.parametrize("int8_kernels", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("arithmetic", _ARITHMETICS)
def test_every_sum_of_a_convolution_is_rounded_as_its_board_does(
    arithmetic: str, relu: bool, int8_kernels: bool
) -> None:
    for shift in range(16):
        # 256 inputs times 64 weights, and biases that put ties and their neighbours beside one another
        weights = np.arange(-127, 128, 4, dtype=np.int8).reshape(-1, 1, 1, 1)
        bias = (np.arange(weights.size) % 5 - 2 + 2**shift // 2).astype(np.int32)
        model = convolution(weights, bias, (-shift, 0, -shift, 0), (1, 1, 256, 1), relu=relu)
        x = np.arange(-128, 128, dtype=np.int64)
        found = lowered(model, arithmetic, int8_kernels=int8_kernels)
        kinds = {node.op_type for node in found.model.graph.node}
        if shift == 13:
            assert ("QLinearConv" in kinds) == (int8_kernels and (relu or arithmetic == "dpu"))
        if shift == 14:
            assert "QLinearConv" not in kinds
        values = _output(found, x, shift)
        sums = x[None, :] * weights.reshape(-1, 1).astype(np.int64) + bias.reshape(-1, 1)
        np.testing.assert_array_equal(values, _reference(sums, shift, up=arithmetic == "dpu", relu=relu), f"{shift}")


def _output(found: Lowered, x: NDArray[np.int64], shift: int) -> NDArray[np.float32]:
    """The result, whose step is 1, shape (channels, 256)."""
    values = integers_of(found, {"x": (x * 2.0**-shift).astype(np.float32).reshape(1, 1, 256, 1)})
    (output,) = [value for name, value in values.items() if name.endswith(".d")]
    return np.asarray(output[0, :, :, 0])
