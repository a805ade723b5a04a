"""Small networks with every structure that the rule books distinguish, and the real ones beside the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

SHARED = Path(__file__).parents[3].parent / "shared"
Feed = dict[str, NDArray[Any]]
Attribute = int | float | str | list[int] | list[float] | onnx.GraphProto


class NetworkBuilder:
    """Writes an ONNX network node by node, with seeded random weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def weights(self, name: str, *shape: int, gain: float = 1.0) -> str:
        scale = gain / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else gain
        return self.constant(name, (self.rng.normal(size=shape) * scale).astype(np.float32))

    def add(self, op: str, inputs: list[str], output: str, name: str | None = None, **attributes: Attribute) -> str:
        node = helper.make_node(op, inputs, [output], name=name or output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output

    def conv(self, data: str, name: str, shape: tuple[int, ...], *, bias: bool = True, **attributes: Attribute) -> str:
        inputs = [data, self.weights(f"{name}.w", *shape)]
        if bias:
            inputs.append(self.weights(f"{name}.b", shape[0], gain=0.2))
        return self.add("Conv", inputs, name, name, **attributes)

    def model(
        self,
        inputs: dict[str, list[int | str]],
        outputs: dict[str, list[int | str] | None],
        opset: int = 13,
        ir_version: int = 8,
    ) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def branched_network() -> ModelProto:
    """Convolution, batch normalization, depthwise, residual sum, concatenation, pooling, fully connected, softmax."""
    net = NetworkBuilder()
    net.conv("image", "stem", (8, 3, 3, 3), pads=[1] * 4, bias=False)
    rng = net.rng
    for name, value in {
        "bn.s": rng.uniform(0.5, 2, 8),
        "bn.b": rng.normal(size=8) * 0.1,
        "bn.m": rng.normal(size=8) * 0.1,
        "bn.v": rng.uniform(0.5, 2, 8),
    }.items():
        net.constant(name, value.astype(np.float32))
    net.add("BatchNormalization", ["stem", "bn.s", "bn.b", "bn.m", "bn.v"], "bn")
    net.add("Relu", ["bn"], "relu1")
    net.add("MaxPool", ["relu1"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    net.conv("pool", "depthwise", (8, 1, 3, 3), pads=[1] * 4, group=8)
    net.constant("zero", np.array(0, np.float32))
    net.constant("six", np.array(6, np.float32))
    net.add("Clip", ["depthwise", "zero", "six"], "clip")
    net.conv("clip", "pointwise", (8, 8, 1, 1))
    net.add("Add", ["pointwise", "pool"], "sum")
    net.add("Relu", ["sum"], "relu2")
    net.conv("relu2", "left", (4, 8, 1, 1))
    net.conv("relu2", "right", (4, 8, 3, 3), pads=[1] * 4)
    net.add("Concat", ["left", "right"], "concat", axis=1)
    net.add("Dropout", ["concat"], "dropout")
    net.add("GlobalAveragePool", ["dropout"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.add("Gemm", ["flat", net.weights("fc.w", 5, 8), net.weights("fc.b", 5)], "logits", transB=1)
    net.add("Softmax", ["logits"], "scores", axis=1)
    return net.model({"image": ["N", 3, 8, 8]}, {"scores": ["N", 5]})


def images(count: int, seed: int = 1, size: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def run(
    model: ModelProto | Path, feed: Feed, outputs: list[str] | None = None, *, optimized: bool = False
) -> list[NDArray[Any]]:
    """Run without graph optimization: exactly the arithmetic that the nodes spell out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(outputs, feed)
    return results


@pytest.fixture
def builder() -> type[NetworkBuilder]:
    """Makes networks node by node."""
    return NetworkBuilder


@pytest.fixture(name="images")
def _images() -> Callable[..., NDArray[np.float32]]:
    return images


@pytest.fixture(name="run")
def _run() -> Callable[..., Any]:
    return run


@pytest.fixture(name="branched")
def _branched(tmp_path: Path) -> Path:
    path = tmp_path / "branched.onnx"
    onnx.save(branched_network(), path)
    return path


@pytest.fixture(name="models_dir", scope="session")
def _models_dir() -> Path:
    folder = SHARED / "data" / "models"
    if not folder.is_dir():
        pytest.skip("../shared/data/models is not here")
    return folder


@pytest.fixture(name="vectors_csv", scope="session")
def _vectors_csv() -> Path:
    path = SHARED / "facts" / "histogram_vectors.csv"
    if not path.is_file():
        pytest.skip("../shared/facts/histogram_vectors.csv is not here")
    return path
