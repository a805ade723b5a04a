"""Small networks for the performance models, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from harness.emulation.performance.layers import NetworkShape
from harness.emulation.performance.reading import read_shape

VECTORS = Path(__file__).parents[3] / "vectors"


def weights(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return numpy_helper.from_array(values.astype(np.float32), name)


def node(op_type: str, inputs: Sequence[str], output: str, **attributes: str | float | list[int]) -> NodeProto:
    """A node that is called as its one output is."""
    made = helper.make_node(op_type, list(inputs), [output], name=output)
    made.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return made


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    constants: Sequence[onnx.TensorProto],
    shape: Sequence[int | str],
    outputs: Sequence[str],
) -> Path:
    """One input "x" of `shape`; outputs of shapes that inference finds."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def shape_of(
    folder: Path,
    nodes: Sequence[NodeProto],
    constants: Sequence[onnx.TensorProto],
    shape: Sequence[int | str],
    *outputs: str,
) -> NetworkShape:
    """The network as a performance model sees it."""
    return read_shape(write(folder / "net.onnx", nodes, constants, shape, outputs or (nodes[-1].output[0],)))


def mnist_fc(path: Path, shape: Sequence[int | str] = ("N", 1, 28, 28)) -> Path:
    """784 → 64 → 32 → 10, with softmax: the network of the one published map of arria10soc_single."""
    nodes = [] if len(shape) == 2 else [node("Flatten", ["x"], "flatten")]
    last = "x" if len(shape) == 2 else "flatten"
    constants = []
    for name, into, out in (("dense_6", 784, 64), ("dense_7", 64, 32), ("dense_8", 32, 10)):
        constants += [weights(f"{name}.w", out, into), weights(f"{name}.b", out)]
        nodes.append(node("Gemm", [last, f"{name}.w", f"{name}.b"], name, transB=1))
        last = name
        if name != "dense_8":
            nodes.append(node("Relu", [last], f"{name}_relu"))
            last = f"{name}_relu"
    nodes.append(node("Softmax", [last], "softmax"))
    return write(path, nodes, constants, shape, ["softmax"])
