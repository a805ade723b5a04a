"""Piece by piece must be the same as at once, and what is read no more must be let go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize.graph import Graph
from harness.quantize.preparation import prepare_model
from harness.quantize.recovery.stepper import Stepper


@pytest.fixture
def graph(branched: Path) -> Graph:
    return Graph(prepare_model(onnx.load(branched), "branched").model)


def test_piecewise_equals_the_whole(graph: Graph, run: Callable[..., Any], images: Callable[..., Any]) -> None:
    feeds = [{"image": images(2, seed=seed)} for seed in range(3)]
    stepper = Stepper(graph, feeds, graph.outputs, "branched")
    for node in graph.nodes:
        stepper.before(node.name)
        stepper.after(node.name)
    for feed, made in zip(feeds, stepper.values("scores"), strict=True):
        assert np.allclose(run(graph.model, feed)[0], made, atol=1e-6)


def test_a_given_constant_changes_what_comes_after(
    graph: Graph, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    feed = {"image": images(2)}
    stepper = Stepper(graph, [feed], graph.outputs, "branched")
    stepper.before("logits")
    bias = graph.node("logits").input[2]
    stepper.give("logits", 2, graph.array(bias) + 1)
    stepper.after(graph.nodes[-1].name)
    changed = onnx.ModelProto()
    changed.CopyFrom(graph.model)
    for tensor in changed.graph.initializer:
        if tensor.name == bias:
            tensor.CopyFrom(onnx.numpy_helper.from_array(graph.array(bias) + 1, bias))
    assert np.allclose(run(changed, feed)[0], stepper.values("scores")[0], atol=1e-6)


def test_tensors_are_let_go(graph: Graph, images: Callable[..., Any]) -> None:
    stepper = Stepper(graph, [{"image": images(2)}], ["relu1"], "branched")
    stepper.before("concat")
    assert stepper.values("relu1")[0].shape == (2, 8, 8, 8)
    stepper.forget("relu1")
    with pytest.raises(KeyError):
        stepper.values("relu1")
    with pytest.raises(KeyError):
        stepper.values("pool")
    assert stepper.input_values("concat", 1)[0].shape == (2, 4, 4, 4)
