"""A layer as a matrix product: the moments must reproduce what ONNX Runtime's own operator computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from harness.quantize.graph import Graph
from harness.quantize.recovery.moments import matrices, moments
from harness.quantize.rulebooks import rule_book
from harness.quantize.runtime import open_session
from harness.quantize.units import find_units

FORMS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (2, 4, 9, 7), (6, 4, 3, 3), {"pads": [1, 0, 2, 1]}),
    "strided": ("Conv", (2, 4, 9, 7), (6, 4, 3, 2), {"strides": [2, 3], "dilations": [1, 2]}),
    "grouped": ("Conv", (2, 4, 8, 8), (6, 2, 3, 3), {"group": 2}),
    "depthwise": ("Conv", (2, 4, 8, 8), (8, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same-lower": ("Conv", (2, 4, 8, 8), (3, 4, 4, 4), {"auto_pad": "SAME_LOWER"}),
    "valid": ("Conv", (2, 4, 8, 8), (3, 4, 3, 3), {"auto_pad": "VALID"}),
    "one-dimensional": ("Conv", (2, 4, 20), (5, 4, 5), {"pads": [2, 2]}),
    "gemm": ("Gemm", (8, 12), (12, 5), {}),
    "gemm-transposed": ("Gemm", (8, 12), (5, 12), {"transB": 1}),
    "matmul": ("MatMul", (2, 7, 12), (12, 5), {}),
}


def layer(name: str) -> tuple[Graph, NDArray[np.float32]]:
    op, shape, weight_shape, attributes = FORMS[name]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=weight_shape).astype(np.float32)
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model)), rng.normal(size=shape).astype(np.float32) + 0.5


@pytest.mark.parametrize("name", FORMS)
def test_moments_agree_with_the_operator(name: str) -> None:
    graph, x = layer(name)
    (unit,) = find_units(graph, rule_book("cpu"))[0]
    (y,) = open_session(graph.model, name).run(None, {"x": x})
    weights = matrices(graph, unit)
    assert weights is not None
    seen = moments(graph.node("layer"), weights, x, y, np.random.default_rng(1))
    assert seen is not None
    # y = W·x, so Σ x·yᵀ = Σ x·xᵀ·Wᵀ and Σ y = W·Σ x: only if every position meets its own patch.
    assert np.allclose(seen.xy, np.matmul(seen.xx, weights.values.transpose(0, 2, 1)), rtol=1e-4, atol=1e-3)
    assert np.allclose(seen.y, np.einsum("gok,gk->go", weights.values, seen.x), rtol=1e-4, atol=1e-3)
    stored = graph.array("w")
    assert np.array_equal(weights.restored(weights.values), stored)
    assert np.array_equal(weights.matched(stored.astype(np.float64)), weights.values)


def test_many_positions_are_sampled() -> None:
    graph, _ = layer("one-dimensional")
    (unit,) = find_units(graph, rule_book("cpu"))[0]
    weights = matrices(graph, unit)
    assert weights is not None
    x = np.random.default_rng(0).normal(size=(1, 4, 5000)).astype(np.float32)
    y = np.zeros((1, 5, 5000), np.float32)
    counts = []
    for passes in (1, 3, 100):
        seen = moments(graph.node("layer"), weights, x, y, np.random.default_rng(1), passes=passes)
        assert seen is not None
        counts.append(seen.count)
    assert counts == [5000, 5000, 655]  # 65536 in all passes together, and there are but 5000


def test_means_alone_take_no_second_moments() -> None:
    graph, x = layer("gemm")
    (unit,) = find_units(graph, rule_book("cpu"))[0]
    weights = matrices(graph, unit)
    assert weights is not None
    seen = moments(
        graph.node("layer"), weights, x, np.ones((8, 5), np.float32), np.random.default_rng(1), means_only=True
    )
    assert seen is not None
    assert seen.xx.size == 1
    assert np.allclose(seen.x[0], x.sum(axis=0), rtol=1e-5)
