"""Scaled channels: the function of the network must stay, and the ranges must even out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.quantize.graph import Graph
from harness.quantize.preparation import prepare
from harness.quantize.recovery.absorption import absorbable, absorbed
from harness.quantize.recovery.equalization import balanced, equalized, filled, find_links
from harness.quantize.runtime import with_outputs


@pytest.fixture
def chain(builder: Callable[..., Any]) -> Callable[..., Graph]:
    def make(bend: str = "Relu", seed: int = 3, spread: float = 3.0) -> Graph:
        net = builder(seed)
        loud = np.exp2(net.rng.uniform(-spread, spread, 8)).astype(np.float32)
        net.constant("a.w", (net.rng.normal(size=(8, 3, 3, 3)) * loud[:, None, None, None]).astype(np.float32))
        net.constant("a.b", (net.rng.normal(size=8) * loud).astype(np.float32))
        net.add("Conv", ["x", "a.w", "a.b"], "a", pads=[1] * 4)
        if bend == "Clip":
            net.constant("zero", np.array(0, np.float32))
            net.constant("six", np.array(6, np.float32))
            net.add("Clip", ["a", "zero", "six"], "bent")
        elif bend == "MaxPool":
            net.add("Relu", ["a"], "relu")
            net.add("MaxPool", ["relu"], "bent", kernel_shape=[2, 2])
        else:
            net.add(bend, ["a"], "bent")
        net.conv("bent", "depthwise", (8, 1, 3, 3), pads=[1] * 4, group=8)
        net.add("Relu", ["depthwise"], "relu2")
        net.conv("relu2", "left", (4, 8, 1, 1))
        net.conv("relu2", "right", (4, 4, 1, 1), group=2)
        net.add("Concat", ["left", "right"], "y", axis=1)
        return Graph(onnx.shape_inference.infer_shapes(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 8, None, None]})))

    return make


@pytest.mark.parametrize("bend", ["Relu", "LeakyRelu", "MaxPool"])
def test_balancing_changes_no_bit_and_settles(
    chain: Callable[..., Graph], run: Callable[..., Any], images: Callable[..., Any], bend: str
) -> None:
    graph = chain(bend)
    links = find_links(graph)
    assert [link.maker for link in links] == ["a", "depthwise"]
    assert links[1].readers == ("left", "right")
    scalings = balanced(graph, links)
    assert scalings
    changed = Graph(equalized(graph, links, scalings))
    feed = {"x": images(4)}
    assert np.array_equal(run(graph.model, feed)[0], run(changed.model, feed)[0])
    assert not balanced(changed, find_links(changed))

    def spread(of: Graph) -> float:
        peaks = np.abs(of.array("a.w")).reshape(8, -1).max(axis=1)
        return float(peaks.max() / peaks.min())

    assert spread(changed) <= spread(graph) / 2  # the square root of it goes to the reader, to within a power of two


def test_a_bounded_activation_is_not_balanced(chain: Callable[..., Graph]) -> None:
    graph = chain("Clip")
    assert "a" not in balanced(graph, find_links(graph))


@pytest.mark.parametrize("bend", ["Relu", "Clip"])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_filled_channels_reach_the_end_of_the_range(
    chain: Callable[..., Graph],
    run: Callable[..., Any],
    images: Callable[..., Any],
    bend: str,
    power_of_two: bool,
) -> None:
    graph = chain(bend, spread=1.5)
    links = find_links(graph)
    feed = {"x": images(16)}
    names = [link.tensor for link in links]
    values = run(with_outputs(graph.model, names), feed, names)
    peaks = {
        name: np.abs(value).max(axis=(0, 2, 3)).astype(np.float64) for name, value in zip(names, values, strict=True)
    }
    scalings = filled(links, peaks, power_of_two=power_of_two)
    changed = equalized(graph, links, scalings)
    # On the data that the peaks are of, nothing is cut that was not cut before.
    before, after = run(graph.model, feed)[0], run(changed, feed)[0]
    assert np.abs(before - after).max() < 2e-5 * np.abs(before).max()
    for link, value in zip(links, run(with_outputs(changed, names), feed, names), strict=True):
        top = np.abs(value).max(axis=(0, 2, 3))
        assert top.max() / top.min() < 1.001
        if power_of_two:
            mantissa = np.frexp(float(top.max()) / 127)[0]
            assert mantissa == pytest.approx(0.5, rel=1e-3) or mantissa == pytest.approx(1.0, rel=1e-3)
        if link.clip is not None:
            bound = Graph(changed).array(Graph(changed).node(link.clip).input[2])
            assert float(bound) == pytest.approx(float(top.max()), rel=1e-4)


def test_what_may_not_be_scaled_is_left(builder: Callable[..., Any]) -> None:
    net = builder()
    net.conv("x", "a", (4, 3, 1, 1))
    net.add("Sigmoid", ["a"], "bent")  # not homogeneous
    net.conv("bent", "b", (4, 4, 1, 1))
    net.conv("b", "c", (4, 4, 1, 1))
    net.add("Add", ["b", "c"], "sum")  # b is read by a sum too
    net.add("Conv", ["sum", "shared"], "d")
    net.add("Relu", ["d"], "relu")
    net.add("Conv", ["relu", "shared"], "e")
    net.weights("shared", 4, 4, 1, 1)
    assert find_links(Graph(net.model({"x": ["N", 3, 4, 4]}, {"e": ["N", 4, 4, 4]}))) == []


def test_absorbed_bias_moves_to_the_reader(
    builder: Callable[..., Any], run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    net = builder()
    net.weights("w", 4, 3, 1, 1, gain=0.1)
    net.constant("b", np.array([9, 0, 7, 0.1], np.float32))
    net.add("Conv", ["x", "w", "b"], "a")
    net.add("Relu", ["a"], "relu")
    net.conv("relu", "y", (2, 4, 3, 3), bias=False)
    graph = Graph(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 2, 6, 6]}))
    links, feed = find_links(graph), {"x": images(8)}
    floors = {
        "relu": run(with_outputs(graph.model, ["relu"]), feed, ["relu"])[0].min(axis=(0, 2, 3)).astype(np.float64)
    }
    amounts = absorbable(graph, links, floors)
    assert amounts["a"][0] > 8
    assert amounts["a"][1] == 0
    changed = absorbed(graph, links, amounts)
    assert np.allclose(run(graph.model, feed)[0], run(changed, feed)[0], atol=1e-5)
    assert (
        run(with_outputs(changed, ["relu"]), feed, ["relu"])[0].max()
        < run(with_outputs(graph.model, ["relu"]), feed, ["relu"])[0].max() / 4
    )


def test_a_reader_that_pads_absorbs_nothing(builder: Callable[..., Any]) -> None:
    net = builder()
    net.conv("x", "a", (4, 3, 1, 1))
    net.add("Relu", ["a"], "relu")
    net.conv("relu", "y", (2, 4, 3, 3), pads=[1] * 4)
    graph = Graph(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 2, 8, 8]}))
    assert absorbable(graph, find_links(graph), {"relu": np.ones(4)}) == {}


def test_prepare_equalizes_once(
    chain: Callable[..., Graph], tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(chain().model, source)
    once = prepare(source, tmp_path / "once.onnx")
    twice = prepare(once, tmp_path / "twice.onnx")
    assert once.read_bytes() == twice.read_bytes()
    assert prepare(source, tmp_path / "plain.onnx", equalize=False).read_bytes() != once.read_bytes()
    feed = {"x": images(4)}
    assert np.array_equal(run(source, feed)[0], run(once, feed)[0])
