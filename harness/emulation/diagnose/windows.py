"""Windows of a convolution or a pooling as rows: what a sum runs over, in 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.quantize.graph import attribute

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the windows of a layer lie; only what ONNX calls `auto_pad: NOTSET`.

    Args:
        kernel: size along each spatial axis.
        strides: of each axis.
        pads: begin of each axis, then end of each.
        dilations: of each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, node: NodeProto, kernel: Sequence[int]) -> Geometry | None:
        """From an operator's attributes; None where pads are left to the runtime or output sizes are rounded up."""
        if attribute(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or attribute(node, "ceil_mode", 0):
            return None
        rank = len(kernel)
        valid = attribute(node, "auto_pad", "NOTSET") == "VALID"
        pads = [0] * 2 * rank if valid else attribute(node, "pads", [0] * 2 * rank)
        return cls(
            tuple(kernel),
            tuple(attribute(node, "strides", [1] * rank)),
            tuple(pads),
            tuple(attribute(node, "dilations", [1] * rank)),
        )

    def windows(self, sample: Array, fill: float) -> Array:
        """All windows over one sample.

        Args:
            sample: [C, spatial…].
            fill: what padding holds.

        Returns:
            [output positions…, C, kernel…], a view where nothing is padded.
        """
        rank = len(self.kernel)
        pads = [(0, 0), *((self.pads[axis], self.pads[axis + rank]) for axis in range(rank))]
        padded = np.pad(sample, pads, constant_values=fill) if any(self.pads) else sample
        reach = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(1, rank + 1)))
        places = tuple(slice(None, None, stride) for stride in self.strides)
        inside = tuple(slice(None, None, step) for step in self.dilations)
        view = view[(slice(None), *places, *inside)]
        return np.moveaxis(view, 0, rank)


def rows_of(
    geometry: Geometry, data: Array, fill: float, groups: int
) -> Iterator[tuple[int, int, tuple[int, ...], Array]]:
    """The rows of the matrix product that a convolution is, one sample and one group at a time.

    Yields:
        (sample, group, output positions along each axis, rows [positions, kernel elements · channels]); along a row
        the channel runs fastest: kernel row, kernel column, channel.
    """
    rank = len(geometry.kernel)
    size = data.shape[1] // groups
    for number, sample in enumerate(data):
        for group in range(groups):
            view = geometry.windows(sample[group * size : (group + 1) * size], fill)
            where = view.shape[:rank]
            last = np.moveaxis(view, rank, -1)
            yield number, group, where, last.reshape(int(np.prod(where)), -1)


def spread(data: Array, geometry: Geometry, output_padding: Sequence[int], zero: float) -> tuple[Array, Geometry]:
    """A transposed convolution's input with its strides written out, and the plain convolution over it.

    Args:
        data: [N, C, spatial…].
        geometry: of the transposed convolution.
        output_padding: as in ONNX.
        zero: what stands between the elements.

    Returns:
        (the input, the geometry: stride 1, the complementary pads; negative ones never occur for sane networks).
    """
    rank = len(geometry.kernel)
    sizes = [(size - 1) * stride + 1 for size, stride in zip(data.shape[2:], geometry.strides, strict=True)]
    wide = np.full((*data.shape[:2], *sizes), zero)
    wide[(slice(None), slice(None), *(slice(None, None, stride) for stride in geometry.strides))] = data
    reach = [(size - 1) * step for size, step in zip(geometry.kernel, geometry.dilations, strict=True)]
    begin = [reach[axis] - geometry.pads[axis] for axis in range(rank)]
    end = [reach[axis] - geometry.pads[axis + rank] + output_padding[axis] for axis in range(rank)]
    return wide, Geometry(geometry.kernel, (1,) * rank, (*begin, *end), geometry.dilations)
