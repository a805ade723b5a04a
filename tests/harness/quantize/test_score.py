"""What an int8 network is scored on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize import calibrate, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.preparation import prepare_model
from harness.quantize.rulebooks import rule_book
from harness.quantize.score import Scorer


def cut(data: np.ndarray, size: int) -> list[dict[str, np.ndarray]]:
    return [{"image": data[start : start + size]} for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [3, 8, 40])
def test_batches_of_the_caller_decide_nothing(
    size: int, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    calibration = calibrate(branched, cut(images(24), 8), environment="cpu")
    held = images(40, seed=7)
    one = quantize(branched, calibration, environment="cpu", held_back=cut(held, 1), out=tmp_path / "1.onnx")
    other = quantize(branched, calibration, environment="cpu", held_back=cut(held, size), out=tmp_path / "2.onnx")
    assert [step.after_db for step in other.steps] == [step.after_db for step in one.steps]
    assert other.digest == one.digest


def test_each_sample_counts_alike_and_the_last_ones_too(branched: Path, images: Callable[..., Any]) -> None:
    graph = Graph(prepare_model(read_model(branched), "net").model)
    data = images(200)
    data[100:] *= 30  # of one batch, the first samples alone would not be told from the rest
    scorer = Scorer(graph, [{"image": data}], "net")
    worse = onnx.ModelProto()
    worse.CopyFrom(graph.model)
    bias = next(one for one in worse.graph.initializer if one.name == graph.node("logits").input[2])
    shifted = graph.array(bias.name) + np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
    scores = scorer.scores(worse, rule_book("cpu"))
    assert len(scores) == scorer.samples == 64
    # The same error weighs less on louder samples.
    assert scores[32:].mean() > scores[:32].mean() + 10
