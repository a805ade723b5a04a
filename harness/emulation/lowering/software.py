"""Why a layer is computed in float, in a reader's words."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from harness.emulation.arithmetic import Arithmetic
from harness.emulation.reading import FUNCTIONS, PRODUCTS
from harness.quantize.graph import Graph, attribute
from harness.quantize.rulebooks.rules import COMMON_FLOAT_REASONS, MOVERS

_COVERED = (
    FUNCTIONS | PRODUCTS | {"Add", "Sub", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"}
)


def reason_for(graph: Graph, node: NodeProto, arithmetic: Arithmetic) -> str:
    """Why a node that no QuantizeLinear follows, or whose operands are float, stays in float."""
    if node.op_type in COMMON_FLOAT_REASONS:
        return COMMON_FLOAT_REASONS[node.op_type]
    if arithmetic.name == "gpu":
        return "single precision beside the int8 layers"
    if moves(node):
        return "moves float values"
    if node.op_type not in _COVERED or node.domain not in {"", "ai.onnx"}:
        return f"{arithmetic.name} has no int8 form of {node.op_type}"
    if any(use.node.op_type == "QuantizeLinear" for name in node.output for use in graph.uses[name]):
        return "one of its operands is float"
    return "returns float: nothing quantizes its result"


def moves(node: NodeProto) -> bool:
    """Whether a node moves values and changes none."""
    if node.domain not in {"", "ai.onnx"}:
        return False
    return node.op_type in MOVERS and (node.op_type != "Resize" or attribute(node, "mode", "nearest") == "nearest")


def is_layer(graph: Graph, node: NodeProto) -> bool:
    """Whether a float node computes on data: shapes and conditions are no layers."""
    if node.op_type in {"QuantizeLinear", "DequantizeLinear", "Constant", "Shape", "Size", "ConstantOfShape", "Range"}:
        return False
    kinds = {graph.element_type(name) for name in node.output if name}
    return bool(kinds & {None, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})
