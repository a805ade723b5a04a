"""A calibration of the needed tensors serves whatever layers are excluded later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.errors import UserError
from harness.quantize import calibrate, prepare, quantize
from harness.quantize.covering import from_remembered
from harness.quantize.graph import Graph, read_model
from harness.quantize.placement import make_plan
from harness.quantize.rulebooks import rule_book


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_every_layer_can_be_excluded_alone(
    environment: str, branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    data = images(16)
    calibration = calibrate(branched, [{"image": data}], environment=environment)
    reference = run(branched, {"image": data})[0]
    for node in read_model(prepare(branched, tmp_path / "p.onnx")).graph.node:
        out = quantize(
            branched,
            calibration,
            environment=environment,
            method="minmax",
            exclude=[node.name],
            recover=[],
            out=tmp_path / "q.onnx",
        )
        kept = dict(out.kept_float)
        # Named itself, or as a part of what it is fused into.
        assert kept[node.name], node.name
        assert np.abs(run(out.path, {"image": data})[0] - reference).max() < 0.1


def test_ranges_of_remembered_samples_are_those_of_observing_them(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    batches = [{"image": images(16)}]
    plain = Graph(read_model(prepare(branched, tmp_path / "p.onnx", equalize=False)))
    plan = make_plan(plain, rule_book("cpu"), ["clip"])
    needed = calibrate(branched, batches, environment="cpu")
    everything = calibrate(branched, batches, environment="cpu", layers="all")
    assert "depthwise" not in needed.tensors
    found, added = from_remembered(needed, plain, plan, "branched")
    assert "depthwise" in added
    own, whole = found.tensors["depthwise"], everything.tensors["depthwise"]
    assert own.count == whole.count
    assert own.low == pytest.approx(whole.low, rel=1e-5)
    assert own.high == pytest.approx(whole.high, rel=1e-5)


def test_the_network_says_which_ranges_are_of_few_samples(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    calibration = calibrate(branched, [{"image": images(16)}], environment="cpu")
    out = quantize(branched, calibration, environment="cpu", exclude=["clip"], out=tmp_path / "q.onnx")
    assert any(note.startswith("ranges of depthwise are those of 16 remembered samples") for note in out.notes)
    bare = replace(calibration, kept=(), kept_at=())
    with pytest.raises(UserError, match=r"calibration lacks the tensor 'depthwise'; calibrate again with layers='all'"):
        quantize(branched, bare, environment="cpu", exclude=["clip"], method="minmax", out=tmp_path / "r.onnx")


def test_infinity_inside_a_fused_layer_is_named(tmp_path: Path) -> None:
    helper, tensor = onnx.helper, onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), -3e38, np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["huge"], "conv"),
        helper.make_node("Relu", ["huge"], ["y"], "relu"),
        helper.make_node("MaxPool", ["y"], ["z"], "pool", kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(nodes, "g", [tensor("x", 1, ["N", 1, 2, 2])], [tensor("z", 1, ["N", 1, 2, 2])], [weight])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    calibration = calibrate(path, [{"x": np.full((4, 1, 2, 2), 2, np.float32)}], environment="host")
    with pytest.raises(UserError, match="layer 'conv' holds NaN or infinity"):
        quantize(path, calibration, environment="host", exclude=["relu"], method="minmax", out=tmp_path / "q.onnx")
