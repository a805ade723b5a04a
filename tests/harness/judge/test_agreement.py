"""Agreement against closed forms; softmax must not change what is said about the logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.special import softmax

from harness.judge.agreement import (
    IDENTICAL_NOTE,
    LOGITS_NOTE,
    PROBABILITIES_NOTE,
    AgreementCounter,
    agreement,
    looks_like_probabilities,
)

RNG = np.random.default_rng(17)
LOGITS = RNG.normal(0, 4, size=(64, 10))


def test_a_known_noise_gives_a_known_sqnr() -> None:
    result = agreement(LOGITS, LOGITS * 0.9)  # noise is a tenth of the signal: 20 dB
    assert result.sqnr_db == pytest.approx(20.0)
    assert result.top1_same == 64
    assert result.cosine == pytest.approx(1.0)
    assert result.max_abs_diff == pytest.approx(0.1 * np.abs(LOGITS).max())
    assert result.note == ""


def test_cosine_equals_scipy_and_top1_equals_numpy() -> None:
    other = LOGITS + RNG.normal(0, 2, LOGITS.shape)
    result = agreement(LOGITS, other)
    assert result.cosine == pytest.approx(1 - cosine(LOGITS.ravel(), other.ravel()))
    assert result.top1_same == int(np.sum(LOGITS.argmax(1) == other.argmax(1)))


def test_softmax_is_undone() -> None:
    centred = LOGITS - LOGITS.mean(axis=1, keepdims=True)
    other = LOGITS + RNG.normal(0, 0.2, LOGITS.shape)
    other_centred = other - other.mean(axis=1, keepdims=True)
    expected = 10 * math.log10(np.sum(centred**2) / np.sum((centred - other_centred) ** 2))
    result = agreement(softmax(LOGITS, axis=1), softmax(other, axis=1))
    assert result.sqnr_db == pytest.approx(expected)
    assert result.note == LOGITS_NOTE


def test_a_quantized_softmax_cannot_be_undone_and_that_is_said() -> None:
    probabilities = softmax(LOGITS, axis=1)
    coarse = np.round(probabilities * 256) / 256
    result = agreement(probabilities, coarse)
    assert (coarse == 0).any()
    assert result.note == PROBABILITIES_NOTE
    assert result.sqnr_db == pytest.approx(
        10 * math.log10(np.sum(probabilities**2) / np.sum((probabilities - coarse) ** 2))
    )


def test_identical_outputs_have_no_finite_sqnr() -> None:
    result = agreement(LOGITS, LOGITS.copy())
    assert result.sqnr_db is None
    assert result.note == IDENTICAL_NOTE
    assert agreement(np.zeros((3, 4)), np.ones((3, 4))).cosine is None


def test_maps_have_no_top1() -> None:
    maps = RNG.normal(size=(2, 5, 4, 4))
    result = agreement(maps, maps * 0.99)
    assert result.top1_same is None
    assert result.sqnr_db == pytest.approx(40.0)


@given(st.integers(1, 63), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_cut_does_not_matter(at: int, as_probabilities: bool) -> None:
    other = LOGITS + np.sin(np.arange(640)).reshape(64, 10)
    f, q = (softmax(LOGITS, axis=1), softmax(other, axis=1)) if as_probabilities else (LOGITS, other)
    counter = AgreementCounter()
    counter.update(f[:at], q[:at])
    counter.update(f[at:], q[at:])
    pieces, whole = counter.result(), agreement(f, q)
    assert (pieces.n, pieces.top1_same, pieces.note) == (whole.n, whole.top1_same, whole.note)
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db)
    assert pieces.max_abs_diff == whole.max_abs_diff


def test_one_chunk_that_is_no_probability_settles_it() -> None:
    counter = AgreementCounter()
    one_hot = np.full((1, 10), 0.1)
    counter.update(one_hot, one_hot * 1.01)
    counter.update(LOGITS, LOGITS * 0.9)
    assert counter.result().note == ""
    assert not looks_like_probabilities(LOGITS)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different shape"):
        agreement(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="no sample"):
        AgreementCounter().result()
