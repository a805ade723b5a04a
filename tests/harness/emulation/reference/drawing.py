"""Hypothesis strategies for hand-written networks: steps within an arithmetic's limits, integers that hit edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]
STYLES = ("any", "extremes", "tiny", "sparse", "ramp")


@dataclass(frozen=True)
class Positions:
    """Fix positions of a layer with weights."""

    into: int
    weights: int
    bias: int
    out: int


def step(position: int) -> float:
    """Real value of one integer step."""
    return 2.0**-position


def kinds(arithmetic: str) -> st.SearchStrategy[type]:
    """Integer types of activations: uint8 is of `host` alone."""
    return st.sampled_from([np.int8, np.uint8]) if arithmetic == "host" else st.just(np.int8)


@st.composite
def layer_positions(draw: st.DrawFn, arithmetic: str) -> Positions:
    """Positions that the DPU's compiler takes; wider ones for the others. Small shifts hit ties most often."""
    into, weights = draw(st.integers(-2, 8)), draw(st.integers(-1, 10))
    if arithmetic == "dpu":
        cut = draw(st.integers(0, 3) | st.integers(0, 16))
        shift = draw(st.integers(min(0, cut - 16), 16))
    else:
        cut = draw(st.integers(0, 3) | st.integers(-3, 20))
        shift = 0 if arithmetic == "host" else draw(st.integers(-8, 16))
    return Positions(into, weights, into + weights - shift, into + weights - cut)


def integers(rng: np.random.Generator, shape: Sequence[int], style: str, kind: type = np.int8) -> Array:
    """Integers of a type: any, only the ends, only -2 … 2, mostly zeros, or all levels in order."""
    info = np.iinfo(kind)
    low, high = int(info.min), int(info.max)
    if style == "extremes":
        return rng.choice(np.array([low, low, high, low + 1], np.int64), shape).astype(kind)
    if style == "tiny":
        return rng.integers(max(low, -2), 3, shape).astype(kind)
    if style == "sparse":
        return (rng.integers(low, high + 1, shape) * (rng.random(shape) < 0.2)).astype(kind)
    if style == "ramp":
        size = int(np.prod(shape))
        return (np.arange(size) % (high - low + 1) + low).reshape(shape).astype(kind)
    return rng.integers(low, high + 1, shape).astype(kind)


def real(values: Array, of_step: float) -> NDArray[np.float32]:
    """What integers stand for, as float32."""
    return (values.astype(np.float64) * of_step).astype(np.float32)


def bias_of(rng: np.random.Generator, count: int, arithmetic: str, style: str) -> Array:
    """Biases: int8 on an FPGA; int32 elsewhere, large ones too."""
    if arithmetic == "host":
        reach = {"extremes": 2**31 - 1, "tiny": 3, "sparse": 0}.get(style, 2**17)
        return rng.integers(-reach, reach + 1, count).astype(np.int32)
    return integers(rng, [count], style)
