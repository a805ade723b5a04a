"""Sums of products: convolutions and matrix products of whole numbers, by explicit loops over the kernel.

Products are summed by float64 matrix multiplication where the largest possible sum stays below 2^53 (every partial sum
in any order is then a whole number that float64 holds, so the result is exact), and by Python integers elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.harness.emulation.reference.rational import Whole, largest


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window over the spatial axes; one number per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def reach(self, axis: int) -> int:
        """Elements from the first to the last position of a window."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def matmul(left: Whole, right: Whole) -> Whole:
    """Matrix product of whole numbers, exact."""
    if largest(left) * largest(right) * max(left.shape[-1], 1) < 2**53:
        result: Whole = np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64)
        return result
    return np.asarray(np.matmul(left.astype(object), right.astype(object)))


def _padded(values: Whole, window: Window) -> Whole:
    around = [(0, 0), (0, 0), *zip(window.before, window.after, strict=True)]
    return np.pad(values, around)


def convolve(values: Whole, weights: Whole, window: Window, groups: int) -> Whole:
    """Convolution of whole numbers.

    Args:
        values: (N, C, spatial…).
        weights: (M, C / groups, kernel…).
        window: its geometry; padding counts as 0.
        groups: of channels.

    Returns:
        (N, M, spatial…).
    """
    padded = _padded(values, window)
    spatial = padded.shape[2:]
    out = [(size - window.reach(axis)) // window.strides[axis] + 1 for axis, size in enumerate(spatial)]
    count, channels = padded.shape[:2]
    made = weights.shape[0]
    per_in, per_out = channels // groups, made // groups
    total = np.zeros((count, groups, per_out, int(np.prod(out))), np.int64)
    for offset in itertools.product(*(range(size) for size in window.kernel)):
        picked = padded[(slice(None), slice(None), *_positions(offset, out, window))]
        columns = picked.reshape(count, groups, per_in, -1)
        rows = _tap(weights, offset).reshape(groups, per_out, per_in)
        total = total + matmul(rows[None], columns)
    return np.asarray(total.reshape(count, made, *out))


def _tap(weights: Whole, offset: tuple[int, ...]) -> Whole:
    index: tuple[Any, ...] = (slice(None), slice(None), *offset)
    return np.asarray(weights[index])


def _positions(offset: Sequence[int], out: Sequence[int], window: Window) -> tuple[slice, ...]:
    starts = [at * dilation for at, dilation in zip(offset, window.dilations, strict=True)]
    return tuple(
        slice(start, start + (size - 1) * stride + 1, stride)
        for start, size, stride in zip(starts, out, window.strides, strict=True)
    )


def convolve_transposed(values: Whole, weights: Whole, window: Window, groups: int, extra: Sequence[int]) -> Whole:
    """Transposed convolution of whole numbers: every input element spreads its kernel over the output.

    Args:
        values: (N, C, spatial…).
        weights: (C, M / groups, kernel…).
        window: its geometry; `before` and `after` are cut off the result.
        groups: of channels.
        extra: `output_padding`.

    Returns:
        (N, M, spatial…).
    """
    count, channels, *spatial = values.shape
    per_in, per_out = channels // groups, weights.shape[1]
    full = [(size - 1) * window.strides[axis] + window.reach(axis) + extra[axis] for axis, size in enumerate(spatial)]
    total = np.zeros((count, groups * per_out, *full), np.int64)
    columns = values.reshape(count, groups, per_in, -1)
    for offset in itertools.product(*(range(size) for size in window.kernel)):
        rows = _tap(weights, offset).reshape(groups, per_in, per_out).swapaxes(1, 2)
        part = matmul(rows[None], columns).reshape(count, groups * per_out, *spatial)
        where = (slice(None), slice(None), *_positions(offset, spatial, window))
        if part.dtype == object:
            total = total.astype(object)
        total[where] = total[where] + part
    kept = tuple(
        slice(before, size - after) for before, after, size in zip(window.before, window.after, full, strict=True)
    )
    return np.asarray(total[(slice(None), slice(None), *kept)])


def pooled(values: Whole, window: Window, *, ceil: bool, include_pad: bool) -> tuple[Whole, Whole, bool]:
    """Sums over windows, and how many elements ONNX counts in each.

    Returns:
        sums (N, C, spatial…), counts (spatial…), and whether a window reaches where nothing is counted.
    """
    spatial = values.shape[2:]
    axes = range(len(spatial))
    out = []
    for axis in axes:
        room = spatial[axis] + window.before[axis] + window.after[axis] - window.reach(axis)
        steps = -(-room // window.strides[axis]) if ceil else room // window.strides[axis]
        # A window that would start behind the last element is none (ONNX, PyTorch).
        if ceil and steps * window.strides[axis] >= spatial[axis] + window.before[axis]:
            steps -= 1
        out.append(steps + 1)
    sums = np.zeros((*values.shape[:2], *out), np.int64)
    counts = np.zeros(out, np.int64)
    for place in itertools.product(*(range(size) for size in out)):
        positions, counted = [], 1
        for axis in axes:
            start = place[axis] * window.strides[axis] - window.before[axis]
            all_of = [start + at * window.dilations[axis] for at in range(window.kernel[axis])]
            inside = [at for at in all_of if 0 <= at < spatial[axis]]
            within = [at for at in all_of if -window.before[axis] <= at < spatial[axis] + window.after[axis]]
            positions.append(inside)
            counted *= len(within if include_pad else inside)
        picked = values[np.ix_(range(values.shape[0]), range(values.shape[1]), *positions)]
        at_place: tuple[Any, ...] = (slice(None), slice(None), *place)
        sums[at_place] = picked.sum(axis=tuple(range(2, values.ndim)))
        counts[place] = counted
    return sums, counts, bool((counts != int(np.prod(window.kernel))).any())
