"""Histograms against numpy's, against `frexp`, and their merge laws."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.quantize.histogram import Histogram, MsbHistogram, msb_of, needed_exponent
from harness.quantize.observe import TensorStats
from harness.quantize.pattern import HALF_BINS

values = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
    min_size=1,
    max_size=60,
).map(lambda items: np.array(items, np.float32))


def seen(*parts: NDArray[np.float32]) -> TensorStats:
    stats = TensorStats.empty(histograms=True)
    for part in parts:
        stats = stats.seeing(part)
    return stats


def same(first: TensorStats, second: TensorStats) -> bool:
    assert first.histogram is not None
    assert second.histogram is not None
    assert first.msb is not None
    assert second.msb is not None
    return (
        (first.low, first.high, first.count) == (second.low, second.high, second.count)
        and first.histogram.exponent == second.histogram.exponent
        and first.histogram.zeros == second.histogram.zeros
        and np.array_equal(first.histogram.counts, second.histogram.counts)
        and np.array_equal(first.msb.positive, second.msb.positive)
        and np.array_equal(first.msb.negative, second.msb.negative)
    )


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(values, min_size=2, max_size=5), order=st.randoms(use_true_random=False))
def test_the_same_values_give_the_same_bits_whatever_the_order_and_the_shards(
    parts: list[NDArray[np.float32]], order: random.Random
) -> None:
    whole = seen(np.concatenate(parts))
    shuffled = list(parts)
    order.shuffle(shuffled)
    merged = seen(shuffled[0])
    for part in shuffled[1:]:
        merged = merged.merged(seen(part))
    assert same(whole, seen(*shuffled))
    assert same(whole, merged)


@settings(max_examples=100, deadline=None)
@given(data=values)
def test_counts_equal_numpys_on_the_same_edges_mirrored_about_zero(data: NDArray[np.float32]) -> None:
    histogram = seen(data).histogram
    assert histogram is not None
    edges = histogram.edges[HALF_BINS:]
    wide = data.astype(np.float64)
    above = np.histogram(wide[wide >= 0], bins=edges)[0]
    below = np.histogram(-wide[wide < 0], bins=edges)[0]
    assert np.array_equal(histogram.counts, np.concatenate([below[::-1], above]))
    assert histogram.total == data.size
    assert histogram.zeros == int((data == 0).sum())


@settings(max_examples=100, deadline=None)
@given(data=values)
def test_msb_bins_equal_frexp(data: NDArray[np.float32]) -> None:
    msb = seen(data).msb
    assert msb is not None
    normal = data[np.abs(data) >= 2.0**-126]
    bits, counts = np.unique(msb_of(normal), return_counts=True)
    below = {bit: count for bit, count in msb.counts().items() if bit > -127}
    assert below == dict(zip(bits.tolist(), counts.tolist(), strict=True))
    assert msb.zeros == int((data == 0).sum())
    assert msb.positive.sum() == int((data > 0).sum())
    assert msb.negative.sum() == int((data < 0).sum())


def test_negative_zero_is_a_zero() -> None:
    msb = MsbHistogram.empty().counting(np.array([-0.0, 0.0, -1.0], np.float32))
    assert (msb.zeros, msb.counts()) == (2, {0: 1})
    assert msb.negative.sum() == 1


@pytest.mark.parametrize(
    ("magnitude", "exponent"), [(1.0, -9), (1023.5, 0), (1024.0, 1), (1e-45, -126), (3e38, 118), (0.0, None)]
)
def test_width_is_the_smallest_that_fits(magnitude: float, exponent: int | None) -> None:
    assert needed_exponent(magnitude) == exponent


def test_widening_loses_no_count_and_keeps_the_bins_edges() -> None:
    data = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    fine = seen(data).histogram
    assert fine is not None
    assert fine.exponent is not None
    coarse = fine.widened(fine.exponent + 3)
    assert coarse.total == 5000
    positive = data[data >= 0].astype(np.float64)
    assert np.array_equal(coarse.counts[HALF_BINS:], np.histogram(positive, bins=coarse.edges[HALF_BINS:])[0])
    # Eight fine bins make one coarse one, exactly.
    middle = fine.counts[HALF_BINS : HALF_BINS + 8].sum()
    assert coarse.counts[HALF_BINS] == middle


def test_empty_histogram_is_the_neutral_element() -> None:
    stats = seen(np.array([1.5, -2.0], np.float32))
    assert same(stats, TensorStats.empty(histograms=True).merged(stats))
    assert same(stats, stats.merged(TensorStats.empty(histograms=True)))
    assert Histogram.empty().total == 0
