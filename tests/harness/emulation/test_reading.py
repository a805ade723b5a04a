"""Which layers a Q/DQ file holds, and why others are none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from harness.emulation.integer_network import Entering, Layer
from harness.emulation.reading import read
from harness.quantize.graph import Graph
from harness.quantize.preparation import infer_types
from tests.harness.emulation.lowering_cases import Network, convolution, integers_of, lowered

_WEIGHTS = np.ones((2, 2, 1, 1), np.int8)


def _read(model: ModelProto) -> dict[str, Layer | Entering]:
    return {made.result.name: made for made in read(Graph(infer_types(model))).made}


def test_a_layer_is_its_operator_with_bias_and_activation_function() -> None:
    model = convolution(_WEIGHTS, np.array([1, 2], np.int8), (-3, -7, -5, -2), (1, 2, 4, 4), relu=True)
    found = _read(model)
    assert isinstance(found["x.quantized"], Entering)
    layer = found["layer.relu.quantized"]
    assert isinstance(layer, Layer)
    assert layer.members == ("layer", "layer.relu")
    assert (layer.result.exponent, layer.result.low, layer.result.high) == (-2, -128, 127)
    np.testing.assert_array_equal(layer.operands[2].in_steps_of(-10), [32, 64])  # type: ignore[union-attr]


def test_a_bias_added_behind_a_matrix_product_belongs_to_it() -> None:
    network = Network()
    product = network.node("MatMul", [network.pair("x", -3), network.integers("w", np.ones((4, 3), np.int8), -4)], "m")
    biased = network.node("Add", [network.integers("b", np.array([1, 2, 3], np.int32), -7), product], "biased")
    layer = _read(network.model({"x": [2, 4]}, [network.pair(biased, 0)]))["biased.quantized"]
    assert isinstance(layer, Layer)
    assert layer.members == ("m", "biased")
    assert layer.bias is not None


def test_what_is_no_layer_enters_with_the_reason() -> None:
    network = Network()
    data = network.pair("x", -3)
    network.node("Relu", ["y"], "float")
    added = network.node("Add", [data, "float"], "added")
    model = network.model({"x": [1, 4], "y": [1, 4]}, [network.pair(added, -3)])
    found = _read(model)["added.quantized"]
    assert isinstance(found, Entering)
    assert found.reason == "it reads what 'float' (Relu) makes in float"
    assert lowered(model, "host").notices == (
        "float (Relu): software: returns float: nothing quantizes its result",
        "added (Add): software: it reads what 'float' (Relu) makes in float",
    )


@pytest.mark.parametrize("arithmetic", ["dpu", "mathworks", "host", "gpu"])
def test_a_zero_point_stays_as_it_is_and_still_runs(arithmetic: str) -> None:
    network = Network()
    data = network.pair("x", -3, np.uint8, zero_point=7)
    made = network.node("Relu", [data], "relu")
    model = network.model({"x": [1, 5]}, [network.pair(made, -3, np.uint8, zero_point=3)])
    assert _read(model) == {}
    x = np.array([[-9, -0.5, 0.13, 1, 99]], np.float32)
    (output,) = [
        value for name, value in integers_of(lowered(model, arithmetic), {"x": x}).items() if name.endswith(".d")
    ]
    np.testing.assert_array_equal(output, [[0, 0, 0.125, 1, 31]])
