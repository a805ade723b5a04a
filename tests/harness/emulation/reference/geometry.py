"""Attributes of nodes, as numbers: windows of convolutions and pools, weights of linear resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from tests.harness.emulation.reference.sums import Window

#: Finest weight of linear resizing that counts as a whole multiple of a power of two.
FINEST = 2**-12


def attributes(node: NodeProto) -> dict[str, Any]:
    """Name → value; texts decoded."""
    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def window_of(node: NodeProto, spatial: Sequence[int], kernel: Sequence[int], *, transposed: bool = False) -> Window:
    """The window of a convolution or pool over an input of that size."""
    given = attributes(node)
    count = len(spatial)
    strides = tuple(given.get("strides", [1] * count))
    dilations = tuple(given.get("dilations", [1] * count))
    kernel = tuple(given.get("kernel_shape", kernel))
    pads = list(given.get("pads", [0] * (2 * count)))
    auto = given.get("auto_pad", "NOTSET")
    if auto.startswith("SAME") and not transposed:
        pads = [0] * (2 * count)
        for axis in range(count):
            out = math.ceil(spatial[axis] / strides[axis])
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((out - 1) * strides[axis] + reach - spatial[axis], 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[count + axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    return Window(kernel, strides, dilations, tuple(pads[:count]), tuple(pads[count:]))


def linear_weights(size: int, out: int, scale: Fraction, mode: str) -> NDArray[Any] | None:
    """Matrix (out, size) of exact weights of linear interpolation along one axis; None where one is not dyadic."""
    rows = np.full((out, size), Fraction(0), object)
    for at in range(out):
        if mode in {"half_pixel", "half_pixel_symmetric"}:
            source = (at + Fraction(1, 2)) / scale - Fraction(1, 2)
        elif mode == "pytorch_half_pixel":
            source = (at + Fraction(1, 2)) / scale - Fraction(1, 2) if out > 1 else Fraction(0)
        elif mode == "align_corners":
            source = Fraction(at * (size - 1), out - 1) if out > 1 else Fraction(0)
        elif mode == "asymmetric":
            source = at / scale
        else:
            return None
        source = min(max(source, Fraction(0)), Fraction(size - 1))
        low = math.floor(source)
        share = source - low
        if share.denominator & (share.denominator - 1) or Fraction(1, share.denominator) < Fraction(FINEST):
            return None
        rows[at, low] += 1 - share
        if share:
            rows[at, low + 1] += share
    return rows
