"""Steps of recovery on networks that need them: kept where they help, reported, and never at the network's cost."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness.errors import UserError
from harness.quantize.calibrator import calibrate
from harness.quantize.graph import Graph
from harness.quantize.quantizer import QuantizedModel, quantize
from harness.quantize.recovery.recover import WORTH_DB, helps
from harness.quantize.rulebooks import rule_book
from harness.quantize.rulebooks.rules import STEPS
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")


@pytest.fixture
def uneven(builder: Callable[..., Any], tmp_path: Path) -> Path:
    """Channels of very different size, as a folded batch normalization leaves them."""
    net = builder(5)
    loud = np.exp2(net.rng.uniform(-3, 3, 16)).astype(np.float32)
    net.constant("a.w", (net.rng.normal(size=(16, 3, 3, 3)) * loud[:, None, None, None]).astype(np.float32))
    net.constant("a.b", (net.rng.normal(size=16) * loud).astype(np.float32))
    net.add("Conv", ["x", "a.w", "a.b"], "a", pads=[1] * 4)
    net.add("Relu", ["a"], "relu1")
    net.constant("b.w", (net.rng.normal(size=(16, 1, 3, 3)) / loud[:, None, None, None]).astype(np.float32))
    net.add("Conv", ["relu1", "b.w"], "b", pads=[1] * 4, group=16)
    net.add("Relu", ["b"], "relu2")
    net.conv("relu2", "c", (16, 16, 1, 1))
    net.add("Relu", ["c"], "relu3")
    net.add("GlobalAveragePool", ["relu3"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.add("MatMul", ["flat", net.weights("fc.w", 16, 6)], "product")
    net.add("Add", ["product", net.weights("fc.b", 6)], "y")
    path = tmp_path / "uneven.onnx"
    onnx.save(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 6]}), path)
    return path


def made(
    path: Path, out: Path, environment: str, images: Callable[..., Any], recover: Collection[str] | None = STEPS
) -> QuantizedModel:
    calibration = calibrate(path, [{"x": images(64, seed=7)}], environment=environment)
    held_back = [{"x": images(32, seed=8)}]
    return quantize(path, calibration, environment=environment, out=out, held_back=held_back, recover=recover)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_recovery_gains_on_data_that_nobody_saw(
    uneven: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any], environment: str
) -> None:
    plain = made(uneven, tmp_path / "plain.onnx", environment, images, recover=())
    better = made(uneven, tmp_path / "better.onnx", environment, images)
    fresh = {"x": images(64, seed=9)}
    reference = run(uneven, fresh)[0]
    before, after = (sqnr_db(reference, run(item.path, fresh)[0]) for item in (plain, better))
    assert after > before + (6 if environment in {"fpga", "host"} else 0.5)
    assert plain.steps == ()
    assert {step.name for step in better.steps} <= set(STEPS)
    for step in better.steps:
        assert not step.kept or step.after_db - step.before_db >= WORTH_DB
        assert any(str(step) in note for note in better.notes)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_layers_and_connections_stay(
    uneven: Path, tmp_path: Path, images: Callable[..., Any], environment: str
) -> None:
    plain = made(uneven, tmp_path / "plain.onnx", environment, images, recover=())
    better = made(uneven, tmp_path / "better.onnx", environment, images)

    def layers(path: Path) -> list[tuple[str, str]]:
        return [(node.name, node.op_type) for node in Graph(onnx.load(path)).nodes if "Linear" not in node.op_type]

    assert layers(plain.path) == layers(better.path)


def test_one_step_alone(uneven: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    for name in STEPS:
        result = made(uneven, tmp_path / f"{name}.onnx", "fpga", images, recover=(name,))
        assert {step.name for step in result.steps} <= {name}
        if name == "bias-correction":
            assert [step.kept for step in result.steps] == [True]
    only_bias = made(uneven, tmp_path / "bias.onnx", "fpga", images, recover=("sequential-bias-correction",))
    plain = made(uneven, tmp_path / "plain.onnx", "fpga", images, recover=())

    def weights(path: Path) -> list[bytes]:
        return [t.raw_data for t in onnx.load(path).graph.initializer if t.name.endswith("weight.int8")]

    assert weights(only_bias.path) == weights(plain.path)
    assert any(step.kept for step in only_bias.steps)


def test_the_same_data_give_the_same_network(uneven: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    first = made(uneven, tmp_path / "a.onnx", "fpga", images)
    second = made(uneven, tmp_path / "b.onnx", "fpga", images)
    assert first.digest == second.digest


def test_unknown_steps_are_refused(uneven: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="recover: 'magic' is unknown; choose from bias-correction, rounding"):
        made(uneven, tmp_path / "a.onnx", "fpga", images, recover=("magic",))


def test_a_network_whose_layers_share_weights(
    builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    net = builder()
    net.conv("x", "a", (3, 3, 1, 1))
    net.weights("w", 3, 3, 3, 3)
    net.add("Conv", ["a", "w"], "b", pads=[1] * 4)
    net.add("Relu", ["b"], "relu")
    net.add("Conv", ["relu", "w"], "y", pads=[1] * 4)
    path = tmp_path / "shared.onnx"
    onnx.save(net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]}), path)
    result = made(path, tmp_path / "q.onnx", "fpga", images)
    integers = [t for t in onnx.load(result.path).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum("weight" in t.name and len(t.dims) == 4 for t in integers) == 2
    fresh = {"x": images(8, seed=9)}
    assert sqnr_db(run(path, fresh)[0], run(result.path, fresh)[0]) > 20


def test_what_counts_as_a_gain() -> None:
    before = np.full(16, 20.0)
    assert helps(before, before + 0.2)
    assert not helps(before, before + 0.05)
    assert helps(np.full(16, -np.inf), before)
    assert not helps(before, np.where(np.arange(16), before + 9, -np.inf))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_rule_book_says_what_is_tried(
    uneven: Path, tmp_path: Path, images: Callable[..., Any], environment: str
) -> None:
    result = made(uneven, tmp_path / "q.onnx", environment, images, recover=None)
    tried = {step.name for step in result.steps}
    assert tried <= set(rule_book(environment).recovery)
    assert ("equalization" in tried) == ("equalization" in rule_book(environment).recovery)
