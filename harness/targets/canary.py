"""A tiny integer network whose exact outputs are known: does this board's int8 arithmetic keep what it computes?

x86 with AVX2 and without VNNI multiplies unsigned by signed bytes with `vpmaddubsw`, which adds each pair of products
in 16 bits and saturates: 255·127 + 255·127 = 64,770 becomes 32,767. VNNI and ARM accumulate in 32 bits. A network
that loses accuracy to this loses it silently, so the board is asked before it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

#: Terms of one dot product; even, so that every product has a partner, and a multiple of four, VNNI's group.
DEPTH = 64
ROWS = 4
COLUMNS = 8
IMAGE = 6
KERNEL = 3
CHANNELS = 4
WEIGHT_ZERO = 128

Int64 = npt.NDArray[np.int64]


class CanaryVerdict(StrEnum):
    """What the canary showed."""

    EXACT = "exact"  # every output equals the 64-bit reference
    SATURATES = "saturates"  # sums of product pairs are cut to 16 bits
    DIFFERS = "differs"  # some other difference: do not trust int8 results of this board


@dataclass(frozen=True)
class Canary:
    """The network, its inputs and its exact outputs.

    Args:
        model: serialized ONNX, opset 13: `MatMulInteger` and `ConvInteger`, activations uint8, weights int8
            (as uint8 around a zero point of 128 in the convolution).
        inputs: `a` uint8 [ROWS, DEPTH], `x` uint8 [1, CHANNELS, IMAGE, IMAGE].
        exact: `y` and `z`, int64.
    """

    model: bytes
    inputs: dict[str, npt.NDArray[Any]]
    exact: dict[str, Int64]


def canary() -> Canary:
    """The canary: large values, whose pair sums leave 16 bits, beside random ones."""
    random = np.random.default_rng(20_240_229)
    a = random.integers(0, 256, (ROWS, DEPTH), dtype=np.uint8)
    b = random.integers(-128, 128, (DEPTH, COLUMNS), dtype=np.int8)
    a[0], b[:, 0], b[:, 1] = 255, 127, -128
    x = random.integers(0, 256, (1, CHANNELS, IMAGE, IMAGE), dtype=np.uint8)
    w = random.integers(0, 256, (COLUMNS, CHANNELS, KERNEL, KERNEL), dtype=np.uint8)
    x[0, :, :KERNEL, :KERNEL], w[0], w[1] = 255, 255, 0
    graph = helper.make_graph(
        [
            helper.make_node("MatMulInteger", ["a", "b"], ["y"]),
            helper.make_node("ConvInteger", ["x", "w", "x_zero", "w_zero"], ["z"]),
        ],
        "quantrig-canary",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape),
            helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.INT32, (ROWS, COLUMNS)),
            helper.make_tensor_value_info("z", TensorProto.INT32, (1, COLUMNS, IMAGE - KERNEL + 1, IMAGE - KERNEL + 1)),
        ],
        [
            numpy_helper.from_array(b, "b"),
            numpy_helper.from_array(w, "w"),
            numpy_helper.from_array(np.array(0, dtype=np.uint8), "x_zero"),
            numpy_helper.from_array(np.array(WEIGHT_ZERO, dtype=np.uint8), "w_zero"),
        ],
    )
    # IR 8, opset 13, convolution weights as uint8 with a zero point: ONNX Runtime 1.23, the last for Python 3.10, has
    # no ConvInteger for int8 weights.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Canary(
        model=model.SerializeToString(deterministic=True),
        inputs={"a": a, "x": x},
        exact={
            "y": a.astype(np.int64) @ b.astype(np.int64),
            "z": _correlate(x.astype(np.int64), w.astype(np.int64) - WEIGHT_ZERO),
        },
    )


def _correlate(x: Int64, w: Int64) -> Int64:
    """What a convolution layer computes (no padding, stride 1): [1, C, H, W] and [M, C, k, k] to [1, M, H', W']."""
    windows = np.lib.stride_tricks.sliding_window_view(x[0], w.shape[2:], axis=(1, 2))
    return np.asarray(np.einsum("chwij,mcij->mhw", windows, w)[None])


def judge(seen: dict[str, npt.NDArray[Any]], reference: Canary) -> CanaryVerdict:
    """Compare what a board returned with the exact outputs.

    Where activations and weights are all extreme, every pair sum saturates, whichever terms a kernel pairs: those
    outputs tell saturation from any other difference.

    Args:
        seen: outputs `y` and `z` of the board.
        reference: the canary that it ran.
    """
    differences = {name: seen[name].astype(np.int64) - exact for name, exact in reference.exact.items()}
    if not any(d.any() for d in differences.values()):
        return CanaryVerdict.EXACT
    pairs = DEPTH // 2
    high, low = int(seen["y"][0, 0]), int(seen["y"][0, 1])
    cut = (high, low) == (pairs * np.iinfo(np.int16).max, pairs * np.iinfo(np.int16).min)
    # Saturation only ever pulls towards zero what is out of range; a difference on the small values is something else.
    return CanaryVerdict.SATURATES if cut else CanaryVerdict.DIFFERS
