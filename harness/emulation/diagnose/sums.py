"""What one layer adds up, from given integers: NumPy, 64 bits, nothing rounded.

Products run through float64 matrix products, which are exact below 2^53 (an int8 layer would need 2^39 terms to reach
it), and are kept as int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.emulation.diagnose.layer import Float64, Int64, Layer, Operand
from harness.emulation.diagnose.windows import Geometry, rows_of, spread
from harness.quantize.graph import attribute

#: Elements of one pair's products at a time.
_PIECE = 1 << 22
#: Multiply-adds of pairs beyond which the search for 16-bit saturation is not worth the wait.
_MOST_PAIRED = 8e9

_Combine = Callable[[Float64, Float64], Float64]


@dataclass(frozen=True, eq=False)
class Product:
    """A layer whose result is a sum of products with stored weights.

    Args:
        data: the input's integers as float64, [N, C, spatial…] or [rows, K].
        operand: their step.
        weights: [groups, K, outputs of a group], integers with their zero point subtracted; along K the channel runs
            fastest.
        geometry: of a convolution; None for a matrix product.
        shape: of the result.
        channel_axis: where the outputs stand in it.
    """

    data: Float64
    operand: Operand
    weights: Float64
    geometry: Geometry | None
    shape: tuple[int, ...]
    channel_axis: int

    @cached_property
    def accumulator(self) -> Int64:
        """Σ w·(x - zero point), of the result's shape."""
        return self._run(np.matmul, self.operand.step.zero_point)

    @cached_property
    def input_sum(self) -> Int64:
        """Σ (x - zero point) over each window."""

        def total(rows: Float64, weights: Float64) -> Float64:
            return np.broadcast_to(rows.sum(axis=1, keepdims=True), (len(rows), weights.shape[1]))

        return self._run(total, self.operand.step.zero_point)

    @property
    def weight_sum(self) -> Int64:
        """Σ w of each output channel."""
        return np.asarray(self.weights.sum(axis=1).reshape(-1), np.int64)

    @property
    def depthwise(self) -> bool:
        """Whether each output sees one input channel only."""
        return self.geometry is not None and len(self.weights) > 1 and len(self.weights) == self.data.shape[1]

    @property
    def can_pair(self) -> bool:
        """Whether 16-bit pairs are worth trying: not for depthwise layers, whose kernels add in 32 bits."""
        size = float(np.prod(self.shape)) * self.weights.shape[1]
        return not self.depthwise and size <= _MOST_PAIRED

    @cached_property
    def paired(self) -> Int64:
        """The accumulator of x86 with AVX2 and no VNNI: products added in pairs that saturate at 16 bits.

        `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours. Neighbours are taken along kernel row,
        kernel column, channel, the channel fastest: for an even number of channels, channels 2i and 2i + 1 under the
        same element of the kernel. Signed activations are first raised by 128, as ONNX Runtime does on x86; the
        offset's part of the sum is subtracted in 32 bits.
        """
        raised = 128 if self.operand.step.low < 0 else 0

        def saturating(rows: Float64, weights: Float64) -> Float64:
            total = np.zeros((len(rows), weights.shape[1]))
            step = max(1, _PIECE // max(1, weights.shape[1]))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                for at in range(0, part.shape[1], 2):
                    pair = part[:, at : at + 2] @ weights[at : at + 2]
                    total[start : start + step] += np.clip(pair, -32768, 32767)
            return total

        offset = self.operand.step.zero_point + raised
        return self._run(saturating, -raised) - (offset * self.weight_sum).reshape(self._channel_shape)

    @property
    def _channel_shape(self) -> tuple[int, ...]:
        return tuple(-1 if axis == self.channel_axis else 1 for axis in range(len(self.shape)))

    def _run(self, combine: _Combine, subtract: int) -> Int64:
        """`combine` of every row x - `subtract` with the weights; padding holds the zero point."""
        zero = self.operand.step.zero_point
        data = self.data - subtract
        if self.geometry is None:
            return combine(data, self.weights[0]).reshape(self.shape).astype(np.int64)
        result = np.empty(self.shape, np.int64)
        groups, _, outputs = self.weights.shape
        for sample, group, where, rows in rows_of(self.geometry, data, zero - subtract, groups):
            made = combine(rows, self.weights[group])
            place = slice(group * outputs, (group + 1) * outputs)
            result[sample, place] = made.T.reshape(outputs, *where).astype(np.int64)
        return result


def product_of(layer: Layer, given: Mapping[str, Int64]) -> Product | None:
    """A weighted layer's sums; None for other layers and for forms that are not covered.

    Args:
        layer: as in the file.
        given: the integers of its input, by tensor.
    """
    node = layer.node
    if node is None or len(layer.operands) != 2:
        return None
    x, w = layer.operands
    if x.tensor is None or w.values is None:
        return None
    data = given[x.tensor].astype(np.float64)
    weights = (w.values - w.step.zero_point).astype(np.float64)
    if node.op_type == "Conv":
        return _convolution(node, data, x, weights)
    if node.op_type == "ConvTranspose":
        return _transposed(node, data, x, weights)
    if node.op_type == "Gemm":
        if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0):
            return None
        matrix = weights.T if attribute(node, "transB", 0) else weights
        return Product(data, x, matrix[None], None, (len(data), matrix.shape[1]), 1)
    if node.op_type == "MatMul" and weights.ndim == 2:
        shape = (*data.shape[:-1], weights.shape[1])
        return Product(data.reshape(-1, data.shape[-1]), x, weights[None], None, shape, len(shape) - 1)
    return None


def _convolution(node: NodeProto, data: Float64, x: Operand, weights: Float64) -> Product | None:
    geometry = Geometry.of(node, weights.shape[2:])
    return None if geometry is None else _over(geometry, data, x, weights, int(attribute(node, "group", 1)))


def _transposed(node: NodeProto, data: Float64, x: Operand, weights: Float64) -> Product | None:
    geometry = Geometry.of(node, weights.shape[2:])
    if geometry is None or attribute(node, "output_shape") is not None:
        return None
    rank, groups = len(geometry.kernel), int(attribute(node, "group", 1))
    wide, plain = spread(data, geometry, attribute(node, "output_padding", [0] * rank), x.step.zero_point)
    if min(plain.pads) < 0:
        return None
    # [in, out of a group, kernel] → [out, in of a group, kernel turned round]
    parts = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    turned = np.flip(np.moveaxis(parts, 2, 1), axis=tuple(range(3, 3 + rank)))
    return _over(plain, wide, x, turned.reshape(-1, *turned.shape[2:]), groups)


def _over(geometry: Geometry, data: Float64, x: Operand, weights: Float64, groups: int) -> Product:
    outputs = weights.shape[0] // groups
    parts = np.moveaxis(weights.reshape(groups, outputs, *weights.shape[1:]), 2, -1)  # the channel fastest
    matrix = np.moveaxis(parts.reshape(groups, outputs, -1), 1, 2)
    where = geometry.windows(data[0, :1], 0).shape[: len(geometry.kernel)]
    return Product(data, x, np.ascontiguousarray(matrix), geometry, (len(data), groups * outputs, *where), 1)


def spread_over(values: NDArray[np.generic], shape: tuple[int, ...], axis: int) -> NDArray[np.generic]:
    """One value a channel (or one for all), for each element of a result, flat."""
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), (int(np.prod(shape)),))
    places = tuple(-1 if number == axis else 1 for number in range(len(shape)))
    return np.broadcast_to(values.reshape(places), shape).reshape(-1)
