"""Windows of a pooling operator: where they lie, and how many elements each of them counts."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.quantize.graph import attribute


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of an AveragePool on an input of known size.

    Args:
        kernel: size along each spatial axis.
        strides: along each.
        dilations: along each.
        begin: padding in front, along each.
        end: padding behind as the operator has it, along each.
        overhang: further padding that the last window of ceil_mode reaches into, counted by nobody.
        sizes: of the output.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    overhang: tuple[int, ...]
    sizes: tuple[int, ...]

    def counts(self, spatial: tuple[int, ...], *, padding: bool) -> NDArray[np.int64]:
        """Elements that each window counts, shape of the output's spatial axes.

        Args:
            spatial: size of the input.
            padding: the operator's padding counts.
        """
        along = []
        for axis, size in enumerate(spatial):
            starts = np.arange(self.sizes[axis]) * self.strides[axis] - self.begin[axis]
            places = starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]
            low, high = (-self.begin[axis], size + self.end[axis]) if padding else (0, size)
            along.append(((places >= low) & (places < high)).sum(axis=1))
        return np.asarray(functools.reduce(np.multiply.outer, along), np.int64)


def windows_of(node: NodeProto, spatial: tuple[int, ...]) -> Windows:
    """The windows of an AveragePool (ONNX, operator AveragePool: output shape with ceil_mode and auto_pad)."""
    rank = len(spatial)
    kernel = tuple(attribute(node, "kernel_shape"))
    strides = tuple(attribute(node, "strides", [1] * rank))
    dilations = tuple(attribute(node, "dilations", [1] * rank))
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    auto = attribute(node, "auto_pad", "NOTSET")
    begin, end, overhang, sizes = [], [], [], []
    for axis, size in enumerate(spatial):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        stride = strides[axis]
        if auto in {"SAME_UPPER", "SAME_LOWER"}:
            count = math.ceil(size / stride)
            total = max((count - 1) * stride + reach - size, 0)
            front = total // 2 if auto == "SAME_UPPER" else total - total // 2
            back = total - front
        else:
            front, back = (0, 0) if auto == "VALID" else (pads[axis], pads[axis + rank])
            room = size + front + back - reach
            if attribute(node, "ceil_mode", 0):
                count = -(-room // stride) + 1
                # a window that would begin behind the input and its front padding does not exist
                if (count - 1) * stride >= size + front:
                    count -= 1
            else:
                count = room // stride + 1
        begin.append(front)
        end.append(back)
        overhang.append(max((count - 1) * stride + reach - (size + front + back), 0))
        sizes.append(count)
    return Windows(kernel, strides, dilations, tuple(begin), tuple(end), tuple(overhang), tuple(sizes))
