"""Streams of outputs: the cut into chunks must not matter, and bad values name their sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from harness.errors import BadResult, UserError
from harness.judge.evaluate import Chunk, evaluate
from harness.judge.metrics import accuracy, own_metric
from harness.record.figure import Network

RNG = np.random.default_rng(5)
SCORES = RNG.normal(size=(23, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 23)
IDS = [f"img{i:02d}.png" for i in range(23)]


def cut(size: int) -> Iterator[Chunk]:
    for start in range(0, 23, size):
        part = slice(start, start + size)
        yield IDS[part], {"logits": SCORES[part]}, LABELS[part]


@pytest.mark.parametrize("size", [1, 5, 23])
def test_the_cut_does_not_matter(size: int) -> None:
    whole_set = own_metric("m:spread", lambda outputs, _labels: float(outputs["logits"].std()))
    result = evaluate(cut(size), [accuracy(1), whole_set], target="t", network=Network.FLOAT)
    assert result.ids == tuple(IDS)
    assert result.results[0].value == pytest.approx(float(np.mean(SCORES.argmax(axis=1) == LABELS)))
    assert result.results[1].value == pytest.approx(float(SCORES.std()), rel=1e-6)
    assert result.results[1].per_sample is None
    assert result.scores is not None
    np.testing.assert_array_equal(result.scores, SCORES)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_outputs_are_the_boards_fault_and_name_the_sample(bad: float) -> None:
    scores = SCORES.copy()
    scores[9, 2] = bad
    chunks: list[Chunk] = [(IDS[:8], {"logits": scores[:8]}, LABELS[:8]), (IDS[8:], {"logits": scores[8:]}, LABELS[8:])]
    with pytest.raises(BadResult, match=r"pi4: NaN or infinite.*Quantized.*'img09\.png'"):
        evaluate(chunks, [accuracy(1)], target="pi4", network=Network.QUANTIZED)


def test_a_value_that_is_no_number_names_the_sample_and_the_network() -> None:
    values = np.ones(23)
    values[9] = math.inf
    metric = own_metric("m:odd", lambda _outputs, _labels: values)
    with pytest.raises(UserError, match=r"m:odd: it returned inf for sample 'img09\.png' of Quantized on pi4"):
        evaluate(cut(5), [metric], target="pi4", network=Network.QUANTIZED)


def test_missing_samples_are_the_boards_fault() -> None:
    with pytest.raises(BadResult, match="for 23 samples"):
        evaluate([(IDS, {"logits": SCORES[:22]}, LABELS)], [accuracy(1)], target="t", network=Network.FLOAT)


def test_a_label_outside_the_classes_names_the_samples() -> None:
    with pytest.raises(UserError, match=r"'img00\.png' to 'img22\.png': label 11"):
        evaluate([(IDS, {"x": SCORES}, LABELS + 7)], [accuracy(1)], target="t", network=Network.FLOAT)


def test_no_labels_and_no_samples_are_said() -> None:
    with pytest.raises(UserError, match="needs a label"):
        evaluate([(IDS, {"x": SCORES}, None)], [accuracy(1)], target="t", network=Network.FLOAT)
    with pytest.raises(UserError, match="no sample was evaluated"):
        evaluate([], [accuracy(1)], target="t", network=Network.FLOAT)


def test_without_labels_outputs_can_still_be_compared() -> None:
    result = evaluate([(IDS, {"x": SCORES}, None)], [], target="t", network=Network.FLOAT)
    assert result.results == ()
    assert result.scores is not None


def test_several_outputs_need_a_name_to_be_compared() -> None:
    chunk: Chunk = (IDS, {"boxes": SCORES, "scores": SCORES * 2}, LABELS)
    assert evaluate([chunk], [], target="t", network=Network.FLOAT).scores is None
    named = evaluate([chunk], [accuracy(1, "scores")], target="t", network=Network.FLOAT, scores_output="scores")
    assert named.scores is not None
    np.testing.assert_array_equal(named.scores, SCORES * 2)
