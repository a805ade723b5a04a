"""Rounding with regard to other weights: checked against enumeration and against rounding to nearest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.quantize.recovery.rounding import DAMPING, damp, descended, output_error, rounded
from harness.quantize.rulebooks.rules import Rounding


def problem(
    seed: int, groups: int = 1, outputs: int = 1, inputs: int = 4, samples: int = 50
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(inputs, inputs)) + 1.5  # inputs that go together, as activations after a ReLU do
    x = np.maximum(rng.normal(size=(groups, samples, inputs)) @ mix, 0)
    return rng.normal(size=(groups, outputs, inputs)), np.matmul(x.transpose(0, 2, 1), x) / samples


@pytest.mark.parametrize("seed", range(8))
def test_nearly_as_good_as_trying_every_choice(seed: int) -> None:
    target, hessian = problem(seed)
    scale = np.full((1, 1, 1), 0.4)
    damped = damp(hessian, DAMPING)
    found = rounded(target, hessian, scale, (-127, 127), Rounding.HALF_EVEN)
    base = np.floor(target[0, 0] / 0.4)
    every = np.array([base + np.array(extra) for extra in itertools.product((-1, 0, 1, 2), repeat=4)])[None]
    best = output_error(every * 0.4, np.broadcast_to(target, every.shape), damped).min()
    nearest = float(output_error(np.rint(target / 0.4) * 0.4, target, damped)[0, 0])
    ours = float(output_error(found * 0.4, target, damped)[0, 0])
    assert ours <= nearest
    assert ours <= (best + nearest) / 2 + 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 150))
def test_never_worse_than_nearest_and_within_the_type(seed: int, groups: int, outputs: int, inputs: int) -> None:
    target, hessian = problem(seed, groups, outputs, inputs)
    scale = np.abs(target).max(axis=2, keepdims=True) / 7
    found = rounded(target, hessian, scale, (-7, 7), Rounding.HALF_AWAY)
    assert np.array_equal(found, np.rint(found))
    assert np.abs(found).max() <= 7
    damped = damp(hessian, DAMPING)
    nearest = descended(np.clip(np.rint(target / scale), -7, 7), target, damped, scale, (-7, 7))
    plain = output_error(np.clip(np.rint(target / scale), -7, 7) * scale, target, damped)
    assert (output_error(nearest * scale, target, damped) <= plain + 1e-9).all()


def test_uncorrelated_inputs_round_to_nearest() -> None:
    target = np.random.default_rng(0).normal(size=(2, 3, 10))
    hessian = np.broadcast_to(np.eye(10), (2, 10, 10)).copy()
    scale = np.full((2, 3, 1), 0.1)
    assert np.array_equal(rounded(target, hessian, scale, (-127, 127), Rounding.HALF_EVEN), np.rint(target / 0.1))


def test_inputs_that_are_always_zero_do_not_matter() -> None:
    target = np.random.default_rng(0).normal(size=(1, 2, 6))
    found = rounded(target, np.zeros((1, 6, 6)), np.full((1, 2, 1), 0.1), (-127, 127), Rounding.HALF_EVEN)
    assert np.isfinite(found).all()
