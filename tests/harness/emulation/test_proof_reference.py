"""The reference itself, against plain loops over Python integers and fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.harness.emulation.reference import dpu_units, rational, sums
from tests.harness.emulation.reference.rational import Exact, Mode
from tests.harness.emulation.reference.sums import Window

Array = NDArray[Any]


def _by_definition(value: Fraction, mode: Mode) -> int:
    if mode == "half-up":
        return math.floor(value + Fraction(1, 2))
    if mode == "half-away":
        return (1 if value >= 0 else -1) * math.floor(abs(value) + Fraction(1, 2))
    return round(value)  # Fraction: ties to even


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-(2**70), 2**70) | st.integers(-2000, 2000), min_size=1, max_size=8),
    st.integers(-12, 4),
    st.integers(1, 49),
    st.sampled_from([2.0**-3, 2.0**2, 1.0, 0.1]),
    st.sampled_from(["half-up", "half-away", "half-even"]),
)
@example([5, -5, 3, -3, 1, -1, 7], -1, 1, 1.0, "half-up")
@example([5, -5, 3, -3, 1, -1, 7], -1, 1, 1.0, "half-even")
def test_rounding_is_its_definition(
    numerators: list[int], exponent: int, denominator: int, step: float, mode: Mode
) -> None:
    numbers = Exact(np.array(numerators, object), exponent, np.asarray(denominator))

    got = rational.rounded(numbers, step, mode, np.dtype(np.int8))

    exact = [Fraction(top) * Fraction(2) ** exponent / denominator / Fraction(step) for top in numerators]
    assert got.tolist() == [min(max(_by_definition(value, mode), -128), 127) for value in exact]


@st.composite
def _windows(draw: st.DrawFn) -> tuple[Window, tuple[int, ...]]:
    rank = draw(st.integers(1, 2))

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    window = Window(numbers(1, 3), numbers(1, 3), numbers(1, 2), numbers(0, 2), numbers(0, 2))
    return window, tuple(window.reach(axis) + draw(st.integers(0, 3)) for axis in range(rank))


@settings(max_examples=60, deadline=None)
@given(_windows(), st.integers(1, 2), st.integers(0, 2**32 - 1), st.booleans())
def test_a_convolution_is_the_sum_that_it_says(
    drawn: tuple[Window, tuple[int, ...]], groups: int, seed: int, wide: bool
) -> None:
    window, spatial = drawn
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (1, 2 * groups, *spatial))
    weights = rng.integers(-128, 128, (groups, 2, *window.kernel)) * (2**48 if wide else 1)

    got = sums.convolve(values, weights, window, groups)

    for place in itertools.product(*(range(size) for size in got.shape[2:])):
        for made in range(groups):
            total = 0
            for channel, *offset in itertools.product(range(2), *(range(size) for size in window.kernel)):
                where = [
                    place[axis] * window.strides[axis] + offset[axis] * window.dilations[axis] - window.before[axis]
                    for axis in range(len(spatial))
                ]
                if all(0 <= at < size for at, size in zip(where, spatial, strict=True)):
                    total += int(values[(0, 2 * made + channel, *where)]) * int(weights[(made, channel, *offset)])
            assert int(got[(0, made, *place)]) == total


@settings(max_examples=60, deadline=None)
@given(_windows(), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_a_transposed_convolution_is_the_sum_that_it_says(
    drawn: tuple[Window, tuple[int, ...]], groups: int, seed: int
) -> None:
    window, spatial = drawn
    rank = len(spatial)
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (1, 2 * groups, *spatial))
    weights = rng.integers(-128, 128, (2 * groups, 2, *window.kernel))

    got = sums.convolve_transposed(values, weights, window, groups, [0] * rank)

    expected = np.zeros_like(got)
    places = itertools.product(*(range(size) for size in spatial))
    for place, channel in itertools.product(places, range(2 * groups)):
        for made, *offset in itertools.product(range(2), *(range(size) for size in window.kernel)):
            where = [
                place[axis] * window.strides[axis] + offset[axis] * window.dilations[axis] - window.before[axis]
                for axis in range(rank)
            ]
            if all(0 <= at < size for at, size in zip(where, got.shape[2:], strict=True)):
                target = (0, 2 * (channel // 2) + made, *where)
                expected[target] += int(values[(0, channel, *place)]) * int(weights[(channel, made, *offset)])
    assert np.array_equal(got, expected)


def _average_by_onnx(values: Array, **attributes: Any) -> Array:  # noqa: ANN401  # ONNX's own
    rank = values.ndim
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["x"], ["y"], **attributes)],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": values.astype(np.float32)})[0]
    return result


@settings(max_examples=60, deadline=None)
@given(_windows(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_averages_count_what_onnx_counts(
    drawn: tuple[Window, tuple[int, ...]], ceil: bool, include_pad: bool, seed: int
) -> None:
    window, spatial = drawn
    # ONNX wants padding smaller than the kernel.
    before = tuple(min(pad, size - 1) for pad, size in zip(window.before, window.kernel, strict=True))
    after = tuple(min(pad, size - 1) for pad, size in zip(window.after, window.kernel, strict=True))
    window = Window(window.kernel, window.strides, window.dilations, before, after)
    values = np.random.default_rng(seed).integers(-128, 128, (1, 2, *spatial))

    total, counts, _ = sums.pooled(values, window, ceil=ceil, include_pad=include_pad)

    expected = _average_by_onnx(
        values,
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*before, *after],
        ceil_mode=int(ceil),
        count_include_pad=int(include_pad),
    )
    np.testing.assert_allclose(total / counts, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "factor"),
    [
        ((3, 3), Fraction(7, 64)),
        ((14, 14), Fraction(21, 4096)),
        ((2, 2), Fraction(1, 4)),
        ((8, 8), Fraction(1, 64)),
        ((3, 6), Fraction(14, 256)),
        # 128·3 = 384: t is at most ceil(8.58) - 1 = 8, and 2^8/3 = 85.33.
        ((3, 1), Fraction(85, 256)),
        # 128·16·1 is 2^11: t at most 10.
        ((1,), Fraction(1)),
    ],
)
def test_pooling_factors_are_those_of_the_page(window: tuple[int, ...], factor: Fraction) -> None:
    assert dpu_units.pooling_factor(window) == factor
