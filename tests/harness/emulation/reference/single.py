"""The arithmetic `gpu`: int8 products in front, one single-precision epilogue behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from tests.harness.emulation.reference import sums
from tests.harness.emulation.reference.geometry import attributes, window_of
from tests.harness.emulation.reference.rational import Whole

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stepped:
    """Integers and their single-precision steps, broadcast."""

    integers: Array
    steps: NDArray[np.float32]
    constant: bool = False

    def float32(self) -> NDArray[np.float32]:
        """q times s."""
        return self.integers.astype(np.float32) * self.steps


def single(node: NodeProto, inputs: list[Any]) -> list[Any] | None:
    """What an int8 layer returns, in single precision; None for what is ONNX's own float arithmetic."""
    if len(inputs) < 2 or not isinstance(inputs[0], Stepped) or not isinstance(inputs[1], Stepped):
        return None
    left, right = inputs[0], inputs[1]
    one, other = left.integers.astype(np.int64), right.integers.astype(np.int64)
    given = attributes(node)
    spatial = one.shape[2:]
    ones = [1] * len(spatial)
    if node.op_type == "Conv":
        total = sums.convolve(one, other, window_of(node, spatial, other.shape[2:]), given.get("group", 1))
        steps = left.steps * _per_channel(right.steps, ones)
    elif node.op_type == "ConvTranspose":
        window = window_of(node, spatial, other.shape[2:], transposed=True)
        groups = given.get("group", 1)
        extra = given.get("output_padding", [0] * len(spatial))
        total = sums.convolve_transposed(one, other, window, groups, extra)
        # One step for each of the weights' second axis, the same in every group.
        width = right.steps if right.steps.size == 1 else np.tile(np.ravel(right.steps), groups)
        steps = left.steps * _per_channel(width, ones)
    elif node.op_type in {"Gemm", "MatMul"}:
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            return None
        total = sums.matmul(one.T if given.get("transA", 0) else one, other.T if given.get("transB", 0) else other)
        columns = right.steps.T if given.get("transB", 0) else right.steps
        steps = left.steps * columns
    else:
        return None
    result = nearest(total) * steps.astype(np.float32)
    if len(inputs) > 2 and inputs[2] is not None:
        bias = inputs[2].float32() if isinstance(inputs[2], Stepped) else inputs[2]
        result = result + (bias.reshape([-1, *ones]) if node.op_type.startswith("Conv") else bias)
    assert result.dtype == np.float32
    return [result]


def _per_channel(steps: Array, ones: list[int]) -> Array:
    return steps.reshape(()) if steps.size == 1 else np.ravel(steps).reshape([-1, *ones])


def nearest(total: Whole) -> NDArray[np.float32]:
    """The float32 nearest to whole numbers below 2^53, which float64 holds."""
    return total.astype(np.float64).astype(np.float32)
