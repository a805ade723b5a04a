"""The compiled counting against NumPy's, bit for bit, whatever the order, the shards and the layout."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.quantize import observer as observer_module
from harness.quantize.layout import Layout, blocked, by_channel, flat
from harness.quantize.observe import ChannelSums, TensorStats
from harness.quantize.observer import Observer, Place, Places

#: Anything a float32 can be but NaN and infinity: subnormal numbers and both zeros come up often.
finite = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 2.0**-126, -(2.0**-126), 3.4e38, -3.4e38, 1.0, -1.0, 1023.0, -1024.0]),
)
arrays = st.lists(finite, min_size=1, max_size=80).map(lambda items: np.array(items, np.float32))


def observe(*passes: NDArray[np.float32], histograms: bool = True) -> TensorStats:
    observer = Observer(["x"], histograms=histograms)
    for values in passes:
        assert observer.count(values.reshape(-1), Places((Place("x", 0, flat(values.shape)),))) is None
    return observer.stats()["x"]


def bits(stats: TensorStats) -> tuple[object, ...]:
    """Everything, so that equal means equal to the bit."""
    assert stats.histogram is not None
    assert stats.msb is not None
    return (
        np.float64(stats.low).tobytes(),
        np.float64(stats.high).tobytes(),
        stats.count,
        stats.histogram.exponent,
        stats.histogram.zeros,
        stats.histogram.counts.tobytes(),
        stats.msb.zeros,
        stats.msb.positive.tobytes(),
        stats.msb.negative.tobytes(),
    )


@settings(max_examples=200, deadline=None)
@given(data=arrays)
@example(data=np.array([-0.0], np.float32))
@example(data=np.array([0.0, -0.0], np.float32))
@example(data=np.array([-3.4e38, 1e-45], np.float32))
def test_counts_are_those_of_numpy(data: NDArray[np.float32]) -> None:
    assert bits(observe(data)) == bits(TensorStats.empty(histograms=True).seeing(data))


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(arrays, min_size=2, max_size=6), order=st.randoms(use_true_random=False))
def test_the_same_bits_whatever_the_order_and_the_shards(
    parts: list[NDArray[np.float32]], order: random.Random
) -> None:
    whole = observe(np.concatenate(parts))
    shuffled = list(parts)
    order.shuffle(shuffled)
    assert bits(observe(*shuffled)) == bits(whole)
    cut = order.randint(1, len(shuffled))
    shards = observe(*shuffled[:cut]), TensorStats.empty(histograms=True)
    if shuffled[cut:]:
        shards = shards[0], observe(*shuffled[cut:])
    assert bits(shards[0].merged(shards[1])) == bits(whole)
    assert bits(shards[1].merged(shards[0])) == bits(whole)


def test_long_tensors_too() -> None:
    """Vectors, their remainders, and the widening of a range that was narrow at first."""
    rng = np.random.default_rng(0)
    parts = [
        (rng.normal(size=size) * scale).astype(np.float32) for size, scale in ((70_001, 1e-3), (33, 40), (4099, 1))
    ]
    expected = TensorStats.empty(histograms=True)
    for part in parts:
        expected = expected.seeing(part)
    assert bits(observe(*parts)) == bits(expected)


def test_counts_beyond_32_bits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emptying the narrow tables, as happens after 2^30 values, changes nothing."""
    parts = [np.random.default_rng(seed).normal(size=500).astype(np.float32) * 3**seed for seed in range(6)]
    whole = observe(*parts)
    monkeypatch.setattr(observer_module, "_ROOM", 700)
    assert bits(observe(*parts)) == bits(whole)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, 4000, 4095])
@pytest.mark.parametrize("histograms", [True, False])
def test_what_is_not_finite_is_found_wherever_it_is(bad: float, at: int, histograms: bool) -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[at] = bad
    observer = Observer(["fine", "bad"], histograms=histograms)
    places = Places((Place("fine", 0, flat((10,))), Place("bad", 0, flat((4096,)))))
    found = observer.count(values, places) if at > 10 else observer.count(values, Places(places.items[1:]))
    assert found is not None
    assert found.name == "bad"


def in_blocks(values: NDArray[np.float32], block: int, filling: float) -> NDArray[np.float32]:
    """(N, C, H, W) as ONNX Runtime stores it: (N, blocks, H, W, block)."""
    batch, channels, *space = values.shape
    blocks = -(-channels // block)
    stored = np.full((batch, blocks * block, *space), filling, np.float32)
    stored[:, :channels] = values
    return np.ascontiguousarray(np.moveaxis(stored.reshape(batch, blocks, block, *space), 2, -1))


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("channels", [3, 8, 16, 20])
@pytest.mark.parametrize("filling", [0.0, 0.5, 1e9, "random"])
def test_blocked_tensors_count_like_plain_ones(block: int, channels: int, filling: float | str) -> None:
    """What fills the last block up is not counted, whatever it is."""
    rng = np.random.default_rng(channels)
    values = np.abs(rng.normal(size=(2, channels, 9, 7))).astype(np.float32) + 0.01
    stored = in_blocks(values, block, filling if isinstance(filling, float) else 0.0)
    if filling == "random":
        lanes = np.arange(stored.shape[1] * block).reshape(stored.shape[1], 1, 1, block)
        stored = np.where(lanes < channels, stored, rng.normal(size=stored.shape) * 50).astype(np.float32)
    observer = Observer(["x"], histograms=True, summed=["x"])
    shape = (2, stored.shape[1] * block, 9, 7)
    places = Places((Place("x", 0, blocked(shape, channels, block)),))
    assert observer.count(stored.reshape(-1), places) is None
    assert bits(observer.stats()["x"]) == bits(TensorStats.empty(histograms=True).seeing(values))
    assert observer.sums()["x"].mean() == pytest.approx(values.mean(axis=(0, 2, 3), dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 4, 5, 6), 1),
        ((2, 7, 300), 1),
        ((5, 9), -1),
        ((2, 3, 48), -1),
        ((4, 1000), 1),
        ((2, 16, 20, 20), 1),
        ((6,), 1),
    ],
)
def test_channel_means(shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32) + 3
    observer = Observer(["x"], histograms=False, summed=["x"])
    places = Places((Place("x", 0, by_channel(shape, axis)),))
    for part in values:
        observer.count(part.reshape(-1), places)
    everywhere = not -len(shape) <= axis < len(shape)
    channels = values.reshape(1, -1) if everywhere else np.moveaxis(values, axis % len(shape) + 1, 0)
    expected = channels.reshape(channels.shape[0], -1).mean(axis=1, dtype=np.float64)
    assert observer.sums()["x"].mean() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(totals=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30))
def test_channel_sums_add_up_without_rounding(totals: list[float]) -> None:
    """Of one value a pass the sum is known exactly; the classes hold it to the last bit."""
    observer = Observer(["x"], histograms=False, summed=["x"])
    places = Places((Place("x", 0, by_channel((1, 1), 1)),))
    for total in totals:
        observer.count(np.array([total], np.float32), places)
    held = sum((Fraction(float(part)) for part in observer.sums()["x"].classes[:, 0]), Fraction()) if totals else 0
    assert held == sum((Fraction(total) for total in totals), Fraction())


def test_channel_sums_merge_to_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    passes = [(rng.normal(size=(1, 5, 40)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32) for _ in range(40)]

    def sums(parts: list[NDArray[np.float32]]) -> ChannelSums:
        observer = Observer(["x"], histograms=False, summed=["x"])
        places = Places((Place("x", 0, by_channel((1, 5, 40), 1)),))
        for part in parts:
            observer.count(part.reshape(-1), places)
        return observer.sums()["x"]

    whole = sums(passes)
    parts = sums(passes[::-3]), sums(passes[-2::-3]), sums(passes[-3::-3])
    merged = parts[2].merged(parts[0]).merged(parts[1])
    mean, again = whole.mean(), merged.mean()
    assert mean is not None
    assert again is not None
    assert mean.tobytes() == again.tobytes()
    exact = [math.fsum(float(value) for part in passes for value in part[0, channel]) for channel in range(5)]
    assert mean * merged.count == pytest.approx(exact, rel=1e-5, abs=1e-3)


def test_a_layout_knows_its_size() -> None:
    assert blocked((2, 32, 3, 3), 20, 16) == Layout(2, 2, 9, 16, 20)
    assert blocked((2, 32, 3, 3), 20, 16).values == 2 * 20 * 9
    assert by_channel((2, 5), -1).size == by_channel((2, 5), 1).values == 10
