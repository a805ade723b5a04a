"""Clipped ranges against brute force on the values themselves, and against the published procedure written plainly."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.quantize.float_pass import FloatPass
from harness.quantize.graph import read_model
from harness.quantize.observe import TensorStats
from harness.quantize.preparation import prepare_model
from harness.quantize.thresholds import clipped_range

MODELS = Path(__file__).parents[3].parent / "shared/data/models"
Values = NDArray[np.float32]


def stats_of(values: Values) -> TensorStats:
    return TensorStats.empty(histograms=True).seeing(values)


def chosen(values: Values, method: str, *, symmetric: bool) -> tuple[float, float]:
    stats = stats_of(values)
    assert stats.histogram is not None
    return clipped_range(stats.histogram, min(stats.low, 0), max(stats.high, 0), method, symmetric=symmetric)


def random_tensors() -> dict[str, Values]:
    rng = np.random.default_rng(7)
    n = 60_000
    return {
        "normal": rng.normal(size=n),
        "relu": np.maximum(rng.normal(size=n), 0),
        "laplace": rng.laplace(size=n) * 3,
        "student": rng.standard_t(3, size=n) * 0.01,
        "lognormal": rng.lognormal(sigma=1.2, size=n),
        "uniform": rng.uniform(-1, 5, size=n),
        "lopsided": np.concatenate([rng.normal(size=n) * 0.1, rng.exponential(size=n)]),
        "outlier": np.concatenate([rng.normal(size=n), [60.0]]),
    }


@cache
def real_tensors() -> dict[str, Values]:
    """Activations of MobileNet and SqueezeNet for an input like an image."""
    found = {}
    for network, name, shape, tensors in (
        ("mobilenet_v1_0.25_224.onnx", "input", (1, 224, 224, 3), ("Relu6__5:0", "Relu6__33:0", "Relu6__57:0")),
        ("squeezenet1.1.onnx", "data_0", (1, 3, 224, 224), ("conv1_2", "fire5/squeeze1x1_2", "conv10_2")),
    ):
        model = prepare_model(read_model(MODELS / network), network).model
        runner = FloatPass(model, tensors, {}, network, threads=1)
        smooth = np.cumsum(np.random.default_rng(3).normal(size=shape), axis=2)
        scale = 1.0 if "mobile" in network else 60.0
        buffer, places = runner.run({name: (smooth / np.abs(smooth).max() * scale).astype(np.float32)})
        for place in places.items:
            layout = place.layout
            stored = buffer[place.start : place.start + layout.size].reshape(layout.groups, layout.rows, layout.lanes)
            values = np.moveaxis(stored, 1, 2).reshape(-1, layout.rows)[: layout.channels]
            found[place.name] = values.reshape(-1).copy()
    return found


def all_tensors() -> dict[str, Values]:
    tensors = {name: values.astype(np.float32) for name, values in random_tensors().items()}
    return tensors | (real_tensors() if MODELS.is_dir() else {})


NAMES = [
    *random_tensors(),
    *(["Relu6__5:0", "Relu6__33:0", "conv1_2", "fire5/squeeze1x1_2"] if MODELS.is_dir() else []),
]


@pytest.fixture(name="tensor", scope="module")
def _tensor() -> Callable[[str], Values]:
    tensors = all_tensors()
    return tensors.__getitem__


def squared_error(values: Values, low: float, high: float, *, symmetric: bool) -> float:
    """Of rounding every single value."""
    wide = values.astype(np.float64)
    if symmetric:
        step = max(-low, high) / 127
        quantized = np.clip(np.rint(wide / step), -127, 127) * step
    else:
        step = (high - low) / 255
        zero = np.rint(-low / step)
        quantized = (np.clip(np.rint(wide / step) + zero, 0, 255) - zero) * step
    return float(np.mean((quantized - wide) ** 2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_as_good_as_any_clipping_tried_on_the_values(
    name: str, symmetric: bool, tensor: Callable[[str], Values]
) -> None:
    values = tensor(name)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    # Coarser than what is tested, and each bound alone: another search, not a repetition of it.
    shares = np.linspace(0.02, 1, 50)
    lows = [share * low for share in shares] if low < 0 and not symmetric else [low]
    best = min(
        squared_error(values, -share * max(-low, high), share * max(-low, high), symmetric=True)
        if symmetric
        else squared_error(values, lower, share * high, symmetric=False)
        for lower in lows[:: 1 if len(lows) == 1 else 7]
        for share in shares
    )
    found = squared_error(values, *chosen(values, "mse", symmetric=symmetric), symmetric=symmetric)
    assert found <= 1.05 * best


def divergence(counts: list[float], size: int, levels: int) -> float:
    """Migacz, '8-bit inference with TensorRT' (GTC 2017), pages 27 and 38-39, as written there."""
    reference = counts[:size]
    reference[size - 1] += sum(counts[size:])
    quantized = [0.0] * size
    for level in range(levels):
        start, stop = level * size // levels, (level + 1) * size // levels
        inside = [count for count in counts[start:stop] if count > 0]
        for index in range(start, stop):
            if counts[index] > 0:
                quantized[index] = sum(inside) / len(inside)
    total, mass = sum(reference), sum(quantized)
    if mass == 0:
        return math.inf
    result = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p > 0:
            result += p / total * math.log(p / total / max(q / mass, 1e-9))
    return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_is_the_published_procedure(name: str, symmetric: bool, tensor: Callable[[str], Values]) -> None:
    values = tensor(name)
    low, high = chosen(values, "entropy", symmetric=symmetric)
    largest = float(np.abs(values).max())
    width = 2.0 ** (math.frexp(largest)[1] - 10)
    counts: list[float] = np.bincount(
        np.floor(np.abs(values[values != 0]).astype(np.float64) / width).astype(int)
    ).astype(float).tolist()  # fmt: skip
    one_sided = values.min() >= 0
    levels = 128 if symmetric else 256
    if not symmetric and not one_sided:
        levels = max(round(256 * largest / float(max(values.max(), 0) - values.min())), 128)
    sizes = sorted({int(size) for size in np.linspace(levels, len(counts), 96)})
    best = min(sizes, key=lambda size: divergence(counts, size, levels))
    assert max(-low, high) == min(best * width, largest)


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_clips_a_long_tail_and_no_box(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    long = np.abs(rng.standard_t(2.5, size=300_000)).astype(np.float32)
    long = long[long < 60]
    low, high = chosen(long, "entropy", symmetric=symmetric)
    assert low == 0
    assert high < 0.6 * long.max()
    # Not its body: hardly anything is cut off.
    assert np.mean(long > high) < 0.01
    box = rng.uniform(0, 1, size=300_000).astype(np.float32)
    assert chosen(box, "entropy", symmetric=symmetric)[1] > 0.98 * box.max()


@pytest.mark.parametrize("name", NAMES)
def test_percentile_leaves_out_no_more_than_it_says(name: str, tensor: Callable[[str], Values]) -> None:
    values = np.tile(tensor(name), 8)
    low, high = chosen(values, "percentile", symmetric=False)
    stats = stats_of(values)
    assert stats.histogram is not None
    width = stats.histogram.width
    for bound, quantile in ((high, 1 - 0.5e-5), (low, 0.5e-5)):
        # Some of what shares the last bin may be inside too.
        assert abs(bound - float(np.clip(np.quantile(values, quantile), min(low, 0), max(high, 0)))) <= 1.01 * width
    assert np.mean((values < low) | (values > high)) <= 1e-5


def test_one_far_outlier_is_given_up_for_the_others() -> None:
    """Even a fifth of the range would leave the body of the distribution three steps."""
    body = stats_of(np.random.default_rng(0).normal(size=400_000).astype(np.float32))
    for _ in range(6):
        body = body.merged(body)
    stats = body.merged(stats_of(np.array([500], np.float32)))
    assert stats.histogram is not None

    def error(top: float) -> float:
        """Of 25.6 million normal values, rounded, and one outlier, clipped."""
        return body.count * (top / 127) ** 2 / 12 + (500 - top) ** 2

    best = min(np.linspace(20, 500, 961), key=error)
    high = clipped_range(stats.histogram, stats.low, stats.high, "mse", symmetric=True)[1]
    assert high < 100
    assert error(high) < 1.01 * error(float(best))


def test_choosing_for_sixty_tensors_is_quick(tensor: Callable[[str], Values]) -> None:
    import time

    stats: list[Any] = [stats_of(tensor(NAMES[index % len(NAMES)])) for index in range(60)]
    for method in ("percentile", "mse", "entropy"):
        started = time.process_time()
        for seen in stats:
            clipped_range(seen.histogram, min(seen.low, 0), max(seen.high, 0), method, symmetric=True)
        assert time.process_time() - started < 0.5, method
