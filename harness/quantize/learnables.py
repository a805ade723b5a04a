"""Which constants of a network are learnables, and how much memory they take on a board."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from harness.quantize.graph import read_model, subgraphs

#: Operator → input slot → what the parameter is called.
PARAMETERS: dict[str, dict[int, str]] = {
    "Conv": {1: "Weights", 2: "Bias"},
    "ConvTranspose": {1: "Weights", 2: "Bias"},
    "ConvInteger": {1: "Weights"},
    "Gemm": {1: "Weights", 2: "Bias"},
    "MatMul": {0: "Weights", 1: "Weights"},
    "MatMulInteger": {0: "Weights", 1: "Weights"},
    "QLinearConv": {3: "Weights", 8: "Bias"},
    "QGemm": {3: "Weights", 6: "Bias"},
    "QLinearMatMul": {0: "Weights", 3: "Weights"},
    "BatchNormalization": {1: "Scale", 2: "Offset", 3: "Mean", 4: "Variance"},
    "InstanceNormalization": {1: "Scale", 2: "Offset"},
    "LayerNormalization": {1: "Scale", 2: "Offset"},
    "GroupNormalization": {1: "Scale", 2: "Offset"},
    "PRelu": {1: "Alpha"},
    "LSTM": {1: "InputWeights", 2: "RecurrentWeights", 3: "Bias", 7: "PeepholeWeights"},
    "GRU": {1: "InputWeights", 2: "RecurrentWeights", 3: "Bias"},
    "RNN": {1: "InputWeights", 2: "RecurrentWeights", 3: "Bias"},
    "Gather": {0: "Weights"},
    "Add": {0: "Bias", 1: "Bias"},
    "Sub": {0: "Bias", 1: "Bias"},
    "Mul": {0: "Scale", 1: "Scale"},
    "Div": {0: "Scale", 1: "Scale"},
}
#: Of these, a single number is a constant of the formula and not a learnable.
_MAY_BE_FORMULA = frozenset({"Add", "Sub", "Mul", "Div"})
#: A table of indices that happens to be gathered from is no learnable.
_REAL_ONLY = frozenset({"Gather", "Add", "Sub", "Mul", "Div"})
_INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_FOUR_BITS = frozenset({TensorProto.INT4, TensorProto.UINT4})


@dataclass(frozen=True, slots=True)
class Learnable:
    """One parameter of one layer.

    Args:
        layer: the layer's name.
        parameter: Weights, Bias, …
        tensor: the constant that holds it.
        shape: its shape.
        data_type: ONNX element type as stored: int8 where it is quantized.
        quantized: it is stored as integers that stand for real values.
    """

    layer: str
    parameter: str
    tensor: str
    shape: tuple[int, ...]
    data_type: int
    quantized: bool

    @property
    def count(self) -> int:
        """How many numbers."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def memory_bytes(self) -> int:
        """Their memory, from the element type; 4-bit types share bytes."""
        if self.data_type in _FOUR_BITS:
            return (self.count + 1) // 2
        return self.count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.data_type)).itemsize)

    @property
    def value(self) -> str:
        """Shape and element type, "64x3x3x3 int8"."""
        kind = TensorProto.DataType.Name(self.data_type).lower()
        return f"{'x'.join(map(str, self.shape)) or 'scalar'} {re.sub('^float$', 'float32', kind)}"


def learnables(model: ModelProto) -> list[Learnable]:
    """The learnables of a network, layer by layer, control-flow bodies included.

    A shared constant appears once per layer that reads it.
    """
    return list(_of_graph(model.graph, {}))


def learnable_memory_bytes(path: str | Path) -> int:
    """Memory of a network's learnables, counted from their types; scales and zero points do not count.

    The published figures count the same way: SqueezeNet 1.1 with 5 classes takes 2,900,244 bytes in single
    precision and 733,908 with int8 weights and single biases.

    Args:
        path: any ONNX network, float or int8.
    """
    once = {(item.tensor, item.shape, item.data_type): item for item in learnables(read_model(Path(path)))}
    return sum(item.memory_bytes for item in once.values())


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    shape: tuple[int, ...]
    data_type: int
    quantized: bool


def _of_graph(graph: GraphProto, outer: dict[str, _Source]) -> Iterator[Learnable]:
    known = dict(outer)
    for tensor in graph.initializer:
        known[tensor.name] = _Source(tensor.name, tuple(tensor.dims), tensor.data_type, quantized=False)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            known[node.output[0]] = _Source(node.output[0], tuple(tensor.dims), tensor.data_type, quantized=False)
        elif node.op_type == "DequantizeLinear" and node.input[0] in known:
            source = known[node.input[0]]
            known[node.output[0]] = _Source(source.name, source.shape, source.data_type, quantized=True)
        else:
            yield from _of_node(node, known)
        for body in subgraphs(node):
            yield from _of_graph(body, known)


def _of_node(node: NodeProto, known: dict[str, _Source]) -> Iterator[Learnable]:
    layer = node.name or node.output[0]
    integer_op = node.op_type in _INTEGER_OPS
    for slot, parameter in PARAMETERS.get(node.op_type, {}).items():
        source = known.get(node.input[slot]) if len(node.input) > slot else None
        if source is None:
            continue
        real = source.quantized or integer_op or source.data_type in _FLOATS
        single = int(np.prod(source.shape, dtype=np.int64)) == 1
        if (node.op_type in _REAL_ONLY and not real) or (node.op_type in _MAY_BE_FORMULA and single):
            continue
        yield Learnable(layer, parameter, source.name, source.shape, source.data_type, source.quantized or integer_op)
