"""Finding the layers of a network that an environment computes in int8, with what fuses into them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from harness.quantize.finite import is_finite
from harness.quantize.graph import Graph, Use, attribute, subgraphs
from harness.quantize.infinite import infinite_layers
from harness.quantize.marks import float_marks
from harness.quantize.patterns import float_blocks
from harness.quantize.rulebooks.rules import Kind, RuleBook, Sign

EXCLUDED = "excluded by name"

#: Operators that an int8 network consists of; a network that holds one is quantized already.
QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)


@dataclass(frozen=True, slots=True)
class Port:
    """Input number `slot` of the node called `node`, reading `tensor`."""

    node: str
    slot: int
    tensor: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer as a board executes it: an operator with the bias and activation function fused into it.

    Args:
        name: the layer's name, that of its operator node.
        op_type: its operator.
        kind: how it is treated.
        members: names of all nodes it consists of, in order.
        data: where activations enter.
        constants: where constant operands enter (not weights or bias).
        weight: where the weights enter, for weighted layers with constant weights.
        channel_axis: axis of the weights that counts output channels, None when there is no such single axis.
        bias: where a constant bias enters.
        outputs: tensors it makes, after fusion.
        bounds: (low, high) of a fused Clip or ReLU, each None where open.
    """

    name: str
    op_type: str
    kind: Kind
    members: tuple[str, ...]
    data: tuple[Port, ...]
    outputs: tuple[str, ...]
    constants: tuple[Port, ...] = ()
    weight: Port | None = None
    channel_axis: int | None = None
    bias: Port | None = None
    bounds: tuple[float | None, float | None] = (None, None)

    @property
    def output(self) -> str:
        """The tensor that it makes; the first of several."""
        return self.outputs[0]


def find_units(graph: Graph, rules: RuleBook, exclude: Collection[str] = ()) -> tuple[list[Unit], dict[str, str]]:
    """Divide the network into int8 layers and the rest.

    Args:
        graph: a prepared network.
        rules: the environment's rule book.
        exclude: names of layers that stay float.

    Returns:
        the int8 layers in order, and name → reason of each node that stays float.
    """
    units: list[Unit] = []
    reasons: dict[str, str] = {}
    taken: set[str] = set()
    blocks = infinite_layers(graph) | float_blocks(graph) | float_marks(graph.nodes)
    for node in graph.nodes:
        if node.name in taken:
            continue
        unit = blocks.get(node.name) or _unit(graph, rules, node)
        if isinstance(unit, str):
            reasons[node.name] = EXCLUDED if node.name in exclude else unit
            continue
        unit = _fuse(graph, rules, unit, blocks.keys() | set(exclude))
        taken.update(unit.members)
        if any(member in exclude for member in unit.members):
            reasons |= {
                member: EXCLUDED if member in exclude else part_of_excluded(unit.name) for member in unit.members
            }
        else:
            units.append(unit)
    return units, reasons


def part_of_excluded(layer: str) -> str:
    """Why a node stays float that an excluded layer would have computed on its way out."""
    return f"part of {layer!r}, which is excluded by name"


def _unit(graph: Graph, rules: RuleBook, node: NodeProto) -> Unit | str:
    """The node as a layer of its own, or the reason why it stays float."""
    kind = _kind(graph, rules, node)
    if not isinstance(kind, Kind):
        return kind
    problem = _type_problem(graph, node, kind)
    if problem:
        return problem
    outputs = tuple(name for name in node.output if name)
    if kind is Kind.WEIGHTED:
        return _weighted(graph, rules, node, outputs)
    slots = range(len(node.input)) if kind in {Kind.ELEMENTWISE, Kind.CONCAT} else range(1)
    data = tuple(Port(node.name, slot, node.input[slot]) for slot in slots if not graph.is_constant(node.input[slot]))
    constants = tuple(Port(node.name, slot, node.input[slot]) for slot in slots if graph.is_constant(node.input[slot]))
    if not data:
        return "all of its operands are constants"
    if any(not is_finite(graph.array(port.tensor)) for port in constants):
        return "a constant operand holds infinity or NaN, which no integer stands for"
    if kind is Kind.MOVES and node.op_type in {"MaxPool", "Dropout"}:
        outputs = outputs[:1]  # a second output holds indices or a mask
    bounds = clip_bounds(graph, node)
    if node.op_type == "Clip" and bounds is None:
        return "its bounds are computed at run time"
    unit = Unit(node.name, node.op_type, kind, (node.name,), data, outputs, constants)
    return replace(unit, bounds=bounds) if bounds is not None else unit


def _kind(graph: Graph, rules: RuleBook, node: NodeProto) -> Kind | str:
    """How the rule book treats a node, or the reason why it stays float."""
    if node.domain not in {"", "ai.onnx"}:
        return rules.float_reason(f"{node.domain}::{node.op_type}")
    kind = rules.kinds.get(node.op_type)
    if kind is None or any(True for _ in subgraphs(node)):
        return rules.float_reason(node.op_type)
    if node.op_type == "AveragePool" and any(step != 1 for step in attribute(node, "dilations", [])):
        # QLinearAveragePool refuses them: ONNX Runtime 1.31.1 cannot even load the network.
        return "its window is dilated: the runtime's integer kernel has no dilations"
    refine = rules.refinements.get(node.op_type)
    return kind if refine is None else refine(graph, node)


def _type_problem(graph: Graph, node: NodeProto, kind: Kind) -> str | None:
    slots = len(node.input) if kind in {Kind.ELEMENTWISE, Kind.CONCAT, Kind.WEIGHTED} else 1
    for name in node.input[:slots]:
        if not name:
            continue
        element_type = graph.element_type(name)
        if element_type is None:
            return "the type of its input is not known before it runs"
        if element_type != TensorProto.FLOAT:
            return f"its input is {TensorProto.DataType.Name(element_type).lower()}, not float"
        if kind is Kind.WEIGHTED and 0 in (graph.shape(name) or ()):
            return "its input or its weights have no elements"
    return None


def _weighted(graph: Graph, rules: RuleBook, node: NodeProto, outputs: tuple[str, ...]) -> Unit | str:
    unit = Unit(node.name, node.op_type, Kind.WEIGHTED, (node.name,), (Port(node.name, 0, node.input[0]),), outputs)
    second = Port(node.name, 1, node.input[1])
    if node.op_type == "MatMul":
        return _matmul(graph, rules, unit, second)
    if graph.is_constant(node.input[0]):
        return "its data operand is a constant"
    if not graph.is_constant(second.tensor):
        return "its weights are computed at run time"
    axis: int | None = 0
    if node.op_type == "ConvTranspose":
        # [Cin, Cout/group, …]: with groups, one index of axis 1 stands for several output channels.
        axis = 1 if attribute(node, "group", 1) == 1 else None
    elif node.op_type == "Gemm":
        axis = 0 if attribute(node, "transB", 0) else 1
    bias = None
    if len(node.input) > 2 and node.input[2] and graph.is_constant(node.input[2]):
        plain = node.op_type != "Gemm" or (attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0)
        if plain and graph.array(node.input[2]).ndim == 1:
            bias = Port(node.name, 2, node.input[2])
    return replace(unit, weight=second, channel_axis=axis, bias=bias)


def _matmul(graph: Graph, rules: RuleBook, unit: Unit, second: Port) -> Unit | str:
    first = unit.data[0]
    if graph.is_constant(first.tensor) and graph.is_constant(second.tensor):
        return "all of its operands are constants"
    if graph.is_constant(second.tensor):
        rank = len(graph.shape(second.tensor) or ())
        if rank < 2:
            return "its weights are a vector: too little work for an int8 kernel"
        return replace(unit, weight=second, channel_axis=1 if rank == 2 else None)
    if graph.is_constant(first.tensor):
        if rules.activation.sign is Sign.UNSIGNED:
            return "its int8 weights stand on the left: the runtime multiplies unsigned by signed in this order only"
        return replace(unit, data=(second,), weight=first)
    return replace(unit, data=(first, second))


def _fuse(graph: Graph, rules: RuleBook, unit: Unit, exclude: Collection[str]) -> Unit:
    """Extend a layer by the bias and the activation function that follow it."""
    if unit.kind is Kind.MOVES or len(unit.outputs) != 1:
        return unit
    use = graph.sole_use(unit.output)
    if use is not None and unit.op_type == "MatMul" and unit.bias is None and use.node.name not in exclude:
        port = _bias_after(graph, unit, use)
        if port is not None:
            members = (*unit.members, use.node.name)
            unit = replace(unit, bias=port, members=members, outputs=(use.node.output[0],))
            use = graph.sole_use(unit.output)
    if use is None or use.slot or use.node.domain or use.node.op_type not in rules.fused or use.node.name in exclude:
        return unit
    bounds = clip_bounds(graph, use.node)
    if not isinstance(_kind(graph, rules, use.node), Kind) and use.node.op_type in rules.kinds:
        return unit  # this one stays float: another slope than the board's
    if bounds is None or unit.bounds != (None, None):
        return unit
    return replace(unit, members=(*unit.members, use.node.name), outputs=(use.node.output[0],), bounds=bounds)


def _bias_after(graph: Graph, unit: Unit, use: Use) -> Port | None:
    """The constant of an Add after a matrix product, when it is a bias per output channel."""
    if use.node.op_type != "Add" or use.node.domain or unit.weight is None or unit.channel_axis is None:
        return None
    slot = 1 - use.slot
    name = use.node.input[slot]
    if not graph.is_constant(name):
        return None
    channels = (graph.shape(unit.weight.tensor) or (0,))[-1]
    shape = graph.shape(name) or ()
    rank = max(2, len(graph.shape(unit.output) or ()))
    # [C], or [1, …, C] beside a result of at least that rank: anything else is no bias.
    if not shape or shape[-1] != channels or any(size != 1 for size in shape[:-1]) or len(shape) > rank:
        return None
    return Port(use.node.name, slot, name)


def clip_bounds(graph: Graph, node: NodeProto) -> tuple[float | None, float | None] | None:
    """Bounds that a ReLU or Clip puts on its output, (None, None) for other operators, None when not constant."""
    if node.op_type == "Relu":
        return (0.0, None)
    if node.op_type != "Clip":
        return (None, None)
    bounds: list[float | None] = []
    for slot in (1, 2):
        name = node.input[slot] if len(node.input) > slot else ""
        if name and not graph.is_constant(name):
            return None
        bounds.append(float(np.asarray(graph.array(name)).reshape(-1)[0]) if name else None)
    return bounds[0], bounds[1]
