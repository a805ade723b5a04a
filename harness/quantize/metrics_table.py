"""What each layer of a network costs: learnables, operations, memory, arithmetic intensity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import NodeProto, TensorProto

from harness.quantize.graph import Graph, attribute, read_model
from harness.quantize.learnables import Learnable, learnables
from harness.quantize.preparation import infer_types, name_nodes

METRIC_COLUMNS = (
    "LayerName",
    "LayerType",
    "NumberOfLearnables",
    "NumberOfOperations",
    "NumberOfMACs",
    "ParameterMemory",
    "ArithmeticIntensity",
)
#: Operators that compute nothing.
_FREE = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Identity",
     "Dropout", "Constant", "Shape", "Cast", "Pad", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip


def network_metrics(*models: str | Path) -> pd.DataFrame | tuple[pd.DataFrame, ...]:
    """One row per layer for each network; a single table for a single network.

    Columns: LayerName, LayerType, NumberOfLearnables, NumberOfOperations (2 per multiply-accumulate plus 1 per
    bias; 1 per element elsewhere; 0 for layers that move values), NumberOfMACs, ParameterMemory (bytes, from the
    element types), ArithmeticIntensity (operations per byte of operands, parameters and results). For one sample;
    a figure that needs a dimension unknown before the network runs is empty. Q/DQ pairs are no layers.

    Raises:
        UserError: a file is no readable network.
    """
    tables = tuple(_table(Path(path)) for path in models)
    return tables[0] if len(tables) == 1 else tables


def _table(path: Path) -> pd.DataFrame:
    model = read_model(path)
    name_nodes(model)
    model = infer_types(model)
    graph = Graph(model)
    owned: dict[str, list[Learnable]] = {}
    for item in learnables(model):
        owned.setdefault(item.layer, []).append(item)
    rows = []
    for node in graph.nodes:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear", "Constant"}:
            continue
        items = owned.get(node.name, [])
        memory = sum(item.memory_bytes for item in items)
        macs = _macs(graph, node)
        operations = _operations(graph, node, macs, items)
        traffic = _traffic_bytes(graph, node, items)
        intensity = operations / traffic if operations is not None and traffic else None
        count = sum(item.count for item in items)
        rows.append((node.name, node.op_type, count, operations, macs, memory, intensity))
    table = pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
    whole = dict.fromkeys(METRIC_COLUMNS[2:6], "Int64")
    return table.astype({**whole, "ArithmeticIntensity": "Float64"})


def _elements(graph: Graph, name: str) -> int | None:
    """Elements of a tensor for one sample: a free first axis counts as 1."""
    shape = graph.shape(name)
    if shape is None or any(size is None for size in shape[1:]):
        return None
    return int(np.prod([size or 1 for size in shape], dtype=np.int64))


def _macs(graph: Graph, node: NodeProto) -> int | None:
    out = _elements(graph, node.output[0]) if node.output else None
    if node.op_type in {"Conv", "QLinearConv", "ConvInteger"}:
        kernel = graph.shape(node.input[3 if node.op_type == "QLinearConv" else 1])
        if out is None or kernel is None or None in kernel:
            return None
        return out * int(np.prod(kernel[1:], dtype=np.int64))  # type: ignore[arg-type]
    if node.op_type == "ConvTranspose":
        data, kernel = _elements(graph, node.input[0]), graph.shape(node.input[1])
        if data is None or kernel is None or None in kernel:
            return None
        return data * int(np.prod(kernel[1:], dtype=np.int64))  # type: ignore[arg-type]
    if node.op_type in {"Gemm", "MatMul", "MatMulInteger"}:
        shape = graph.shape(node.input[0])
        axis = -2 if node.op_type == "Gemm" and attribute(node, "transA", 0) else -1
        depth = shape[axis] if shape else None
        return None if out is None or depth is None else out * depth
    return 0


def _operations(graph: Graph, node: NodeProto, macs: int | None, items: list[Learnable]) -> int | None:
    out = _elements(graph, node.output[0]) if node.output else None
    if macs is None or node.op_type in _FREE:
        return None if macs is None else 0
    if macs:
        biased = any(item.parameter == "Bias" for item in items)
        return 2 * macs + (out or 0 if biased else 0)
    if out is None:
        return None
    if node.op_type in {"MaxPool", "AveragePool"}:
        return out * int(np.prod(attribute(node, "kernel_shape", [1]), dtype=np.int64))
    if node.op_type in {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"}:
        return _elements(graph, node.input[0])
    return out


def _traffic_bytes(graph: Graph, node: NodeProto, items: list[Learnable]) -> int | None:
    total = sum(item.memory_bytes for item in items)
    held = {item.tensor for item in items}
    for name in (*node.input, *node.output):
        if not name or graph.is_constant(name) or name in held:
            continue
        moved = name
        maker = graph.producer.get(name)
        uses = graph.uses.get(name, [])
        if maker is node and uses and all(use.node.op_type == "QuantizeLinear" for use in uses):
            moved = uses[0].node.output[0]  # it leaves as the integer
        elif maker is not None and maker.op_type == "DequantizeLinear":
            if graph.is_constant(maker.input[0]):
                continue
            moved = maker.input[0]  # the integer
        elements = _elements(graph, moved)
        if elements is None:
            return None
        kind = graph.element_type(moved) or TensorProto.FLOAT
        total += elements * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)
    return total
