"""The proofs notice: one thing changed in a lowered network, or in its file, and the comparison finds the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

import harness
from harness.demo import digits
from harness.emulation import lower
from harness.emulation.lowered import Lowered
from tests.harness.emulation.reference.agreement import Agreement, compare
from tests.harness.emulation.reference.drawing import Array
from tests.harness.emulation.reference.written import Written

ROOT = Path(__file__).parents[3]
#: The layer that is tampered with, by its integers.
LAYER = "relu_3.quantized"


@pytest.fixture(name="images", scope="module")
def _images() -> dict[str, Array]:
    pytest.importorskip("sklearn")
    return {"image": digits.held_out()[0]["image"]}


@pytest.fixture(name="network", scope="module")
def _network(images: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = harness.Quantizer(ROOT / "harness" / "demo" / "digits.onnx", environment="fpga")
    session.calibrate([{"image": images["image"][:64]}], method="minmax")
    return session.quantize(tmp_path_factory.mktemp("digits") / "int8.onnx", method="minmax", recover=()).path


def _makers(model: ModelProto, tensor: str) -> list[NodeProto]:
    """The nodes that compute a layer's integers, back to its convolution."""
    maker = {name: node for node in model.graph.node for name in node.output}
    found = [maker[tensor]]
    while found[-1].op_type != "Conv":
        found.append(maker[found[-1].input[0]])
    return found


def _change(model: ModelProto, slot: int, change: Callable[[Array], Array]) -> None:
    """Change a constant of the layer's convolution; a copy, as others may read it."""
    conv = _makers(model, LAYER)[-1]
    old = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[slot])
    model.graph.initializer.append(numpy_helper.from_array(change(numpy_helper.to_array(old).copy()), "tampered"))
    conv.input[slot] = "tampered"


def _unit(model: ModelProto) -> float:
    """What one unit of the accumulator is in the lowered convolution: the finest bit of its weights."""
    conv = _makers(model, LAYER)[-1]
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    values, unit = numpy_helper.to_array(weights).astype(np.float64), 1.0
    while (values / unit != np.round(values / unit)).any():
        unit /= 2
    return unit


def _round_to_even(model: ModelProto) -> None:
    node = next(node for node in _makers(model, LAYER) if node.op_type == "Floor")
    _change(model, 2, lambda bias: bias - np.float32(0.5))
    node.op_type = "Round"


def _no_offset(model: ModelProto) -> None:
    _change(model, 2, lambda bias: bias - np.float32(0.5))


def _bias_by_a_unit(model: ModelProto) -> None:
    unit = np.float32(_unit(model))
    _change(model, 2, lambda bias: bias + unit)


def _one_weight_by_a_unit(model: ModelProto) -> None:
    def change(weights: Array) -> Array:
        weights[(0,) * weights.ndim] += np.float32(_unit(model))
        return weights

    _change(model, 1, change)


def _lower_ceiling(model: ModelProto) -> None:
    node = next(node for node in _makers(model, LAYER) if node.op_type == "Clip")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(100, np.float32), "ceiling"))
    node.input[2] = "ceiling"


def _compare(network: Path, images: dict[str, Array], model: ModelProto, lowered: Lowered) -> Agreement:
    return compare(network, "dpu", {"image": images["image"][100:106]}, replace(lowered, model=model))


@pytest.mark.parametrize("change", [_round_to_even, _no_offset, _bias_by_a_unit, _one_weight_by_a_unit, _lower_ceiling])
def test_a_changed_layer_is_the_first_that_differs(
    change: Callable[[ModelProto], None], network: Path, images: dict[str, Array]
) -> None:
    lowered = lower(network, "dpu")
    model = ModelProto()
    model.CopyFrom(lowered.model)
    assert _compare(network, images, model, lowered).differing == {}

    change(model)

    assert next(iter(_compare(network, images, model, lowered).differing)) == LAYER


def test_one_bias_of_the_file_by_one(network: Path, images: dict[str, Array], tmp_path: Path) -> None:
    """The integers of the file, not those of the lowered network, changed by the smallest amount."""
    model = onnx.load(network)
    tensor = next(entry for entry in model.graph.initializer if entry.name.startswith("residual_2.a.bias.int8"))
    values = numpy_helper.to_array(tensor).copy()
    values[0] += 1 if values[0] < 127 else -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "changed.onnx")

    found = compare(network, "dpu", {"image": images["image"][100:106]}, lower(tmp_path / "changed.onnx", "dpu"))

    assert next(iter(found.differing)) == LAYER


@pytest.mark.parametrize(("one", "other"), [("dpu", "mathworks"), ("mathworks", "dpu")])
def test_arithmetics_differ(one: str, other: str, tmp_path: Path) -> None:
    """Half-up and half-away part at negative ties: at every odd level below 0 that is halved."""
    net = Written()
    weight = net.integers("w", np.array([[1]], np.int8), 1.0)
    net.output(net.pair(net.op("MatMul", [net.input("x", [256, 1], 1.0), weight], "layer"), 2.0))
    path = net.save(tmp_path / "net.onnx")
    levels = np.arange(-128, 128, dtype=np.float32).reshape(-1, 1)

    found = compare(path, one, {"x": levels}, lower(path, other))

    assert found.differing == {"layer.quantized": 64, "layer.dequantized": 64}
