"""A whole network: every layer that an arithmetic covers becomes exact nodes, the rest stays in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from harness.emulation.arithmetic import Arithmetic, find_arithmetic
from harness.emulation.exact import Expressions, NotExact
from harness.emulation.integer_network import Entering, IntegerNetwork, Layer
from harness.emulation.lowered import Lowered, LoweredLayer
from harness.emulation.lowering import gpu
from harness.emulation.lowering import int8_kernels as kernels
from harness.emulation.lowering.context import Context, Outcome, Uncovered
from harness.emulation.lowering.elementwise import lower_concat, lower_mul, lower_sum
from harness.emulation.lowering.functions import alone
from harness.emulation.lowering.movers import MOVES, lower_mover
from harness.emulation.lowering.pooling import AVERAGES, lower_average
from harness.emulation.lowering.resizing import lower_resize
from harness.emulation.lowering.rounding import enter
from harness.emulation.lowering.software import is_layer, moves, reason_for
from harness.emulation.lowering.weighted import lower_product
from harness.emulation.reading import FUNCTIONS, PRODUCTS, read
from harness.errors import UserError
from harness.quantize import folding
from harness.quantize.external import scratch
from harness.quantize.graph import Graph, drop_unused_initializers, names_read_inside, read_model, subgraphs, take_name
from harness.quantize.lift import lift
from harness.quantize.order import in_order, sort_nodes
from harness.quantize.preparation import infer_types, name_nodes

_LOWERINGS: dict[str, Callable[[Context, Layer], Outcome]] = {
    **dict.fromkeys(MOVES, lower_mover),
    **dict.fromkeys(PRODUCTS, lower_product),
    **dict.fromkeys(FUNCTIONS, alone),
    **dict.fromkeys(AVERAGES, lower_average),
    "Add": lower_sum,
    "Sub": lower_sum,
    "Mul": lower_mul,
    "Concat": lower_concat,
    "Resize": lower_resize,
}
#: Opset of the nodes that are emitted: bounds of Clip as inputs in every type, axes of ReduceSum as an input.
_OPSET = 13


def lower(path: Path | str, arithmetic: str | Arithmetic, *, int8_kernels: bool = False) -> Lowered:
    """Write a quantized network in an arithmetic's own numbers.

    Args:
        path: a Q/DQ network.
        arithmetic: dpu, mathworks, host or gpu, or an environment: fpga (dpu), host, gpu.
        int8_kernels: compute convolutions with the runtime's QLinearConv where that is exact: the same values in half
            the time, but the integers between layers are uint8 and not there under the names of `LoweredLayer`. The
            proof rests on how ONNX Runtime's CPU provider rounds, not on ONNX alone.

    Returns:
        a network of plain operators with the same inputs and outputs, and how each layer got there.

    Raises:
        UserError: no readable network, not quantized, or an unknown arithmetic.
    """
    found = arithmetic if isinstance(arithmetic, Arithmetic) else find_arithmetic(arithmetic)
    with scratch():
        return lower_model(read_model(Path(path)), found, str(path), int8_kernels=int8_kernels)


def lower_model(model: ModelProto, arithmetic: Arithmetic, what: str, *, int8_kernels: bool = False) -> Lowered:
    """`lower` of a network in memory, which is not changed.

    Args:
        model: a Q/DQ network.
        arithmetic: whose numbers.
        what: how to call it in an error.
        int8_kernels: as for `lower`.

    Raises:
        UserError: it is not quantized, or its opset cannot be raised to 13.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if not any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in copy.graph.node):
        raise UserError(f"{what}: holds no Q/DQ layers; quantize it first: quantrig quantize")
    name_nodes(copy)
    sort_nodes(copy)
    if next((entry.version for entry in copy.opset_import if entry.domain in {"", "ai.onnx"}), 0) < _OPSET:
        copy = lift(copy, what)
        name_nodes(copy)
    folding.constants_to_initializers(copy)
    graph = Graph(infer_types(copy))
    return _Lowering(graph, arithmetic, int8_kernels=int8_kernels).lowered()


class _Lowering:
    def __init__(self, graph: Graph, arithmetic: Arithmetic, *, int8_kernels: bool) -> None:
        self.graph = graph
        self.arithmetic = arithmetic
        self.network: IntegerNetwork = read(graph)
        self.taken = set(graph.initializers) | set(graph.producer) | set(graph.inputs) | graph.read_in_bodies
        self.taken |= {node.name for node in graph.nodes}
        self.context = Context(graph, arithmetic, Expressions(self._free_name))
        self.bytes = kernels.Bytes(self.context) if int8_kernels else None
        #: operator → its layer
        self.layers: dict[str, list[LoweredLayer]] = {}
        self.members: set[str] = set()
        #: operator → why it is software
        self.reasons: dict[str, str] = {}
        #: float nodes that integer ones have replaced
        self.replaced: set[str] = set()

    def _free_name(self, wanted: str) -> str:
        return take_name(wanted, self.taken)

    def lowered(self) -> Lowered:
        for made in self.network.made:
            self.context.expressions.within(made.result.name)
            if self.arithmetic.name == "gpu":
                source = self._source(made)
                gpu.quantize(self.context, source, made.result)
            elif isinstance(made, Layer):
                self._layer(made)
            else:
                self._enter(made)
        if self.arithmetic.name == "gpu":
            self._gpu_layers()
        self._leave()
        return Lowered(self._model(), self.arithmetic, self._in_order())

    def _source(self, made: Layer | Entering) -> str:
        if isinstance(made, Entering):
            return made.tensor
        return self.graph.producer[made.result.name].input[0]

    # --- layers of integers ---

    def _layer(self, layer: Layer) -> None:
        node, result = layer.node, layer.result
        mark = self.context.expressions.mark()
        try:
            lowering = _LOWERINGS.get(node.op_type)
            if lowering is None or node.domain not in {"", "ai.onnx"}:
                raise Uncovered(reason_for(self.graph, node, self.arithmetic))
            if self.arithmetic.dpu_units and result.low == 0:
                raise Uncovered("the DPU has no unsigned integers")
            outcome = None if self.bytes is None else kernels.lower_layer(self.context, layer, self.bytes)
            outcome = outcome or lowering(self.context, layer)
        except (NotExact, Uncovered) as reason:
            self.context.expressions.back(mark)
            self._enter(Entering(self.graph.producer[result.name].input[0], result, str(reason), node.name))
            return
        self.context.bounds[result.name] = (outcome.low, outcome.high)
        self.members.update(layer.members)
        software = outcome.software
        self.layers.setdefault(node.name, []).append(
            LoweredLayer(
                node.name,
                node.op_type,
                layer.members,
                "HW" if software is None else "SW",
                result.name if software is None else None,
                result.step if software is None else None,
                outcome.carrier,
                software,
            )
        )

    def _enter(self, entering: Entering) -> None:
        result = entering.result
        if entering.reason:
            self.reasons.setdefault(entering.layer, entering.reason)
        exponent = result.exponent
        e = self.context.expressions
        if exponent is None:
            gpu.quantize(self.context, entering.tensor, result)
            self.reasons[entering.layer] = f"the step {result.step:g} of its result is no power of two"
            return
        enter(e, entering.tensor, exponent, result.low, result.high, result.name)
        self.context.bounds[result.name] = (result.low, result.high)

    def _gpu_layers(self) -> None:
        for node in self.graph.nodes:
            if node.op_type not in PRODUCTS or not any(name in self.network.dequantized for name in node.input):
                continue
            e = self.context.expressions
            e.within(node.name)
            mark = e.mark()
            try:
                carrier = gpu.lower_layer(self.context, self.network, node)
            except (NotExact, Uncovered) as reason:
                e.back(mark)
                self.reasons[node.name] = str(reason)
                continue
            self.replaced.add(node.name)
            members = (node.name, *self._behind(node))
            self.members.update(members)
            self.layers[node.name] = [LoweredLayer(node.name, node.op_type, members, "HW", carrier=carrier)]

    def _behind(self, node: NodeProto) -> list[str]:
        """What TensorRT fuses behind a layer: a bias, a sum with a shortcut, then a ReLU or Clip."""
        members: list[str] = []
        for wanted in ("Add", "Add", "Relu Clip"):
            use = self.graph.sole_use(node.output[0])
            if use is None or use.node.op_type not in wanted.split() or use.node.domain:
                continue
            other = use.node.input[1 - use.slot] if use.node.op_type == "Add" else ""
            if other and other not in self.network.dequantized and not self.graph.is_constant(other):
                break
            node = use.node
            members.append(node.name)
        return members

    # --- float readers ---

    def _leave(self) -> None:
        """q·s for every float reader, and the constants of the file as floats."""
        e = self.context.expressions
        for name, tensor in self.network.dequantized.items():
            e.within(tensor.name)
            e.node("Mul", [tensor.name, e.array(np.asarray(tensor.step, np.float32))], name)
        for name, constant in self.network.constants.items():
            value = constant.values.astype(np.float32) * constant.scale
            e.constants[name] = value.astype(np.float32)

    # --- the result ---

    def _model(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self.graph.model)
        gone = {"QuantizeLinear", "DequantizeLinear"}
        kept = [
            node
            for node in self.graph.nodes
            if node.name not in self.replaced and (node.op_type not in gone or node.name in self.network.untouched)
        ]
        nodes = _read_by_outputs(model, [*self.context.expressions.nodes, *kept])
        self.remaining = {node.name for node in nodes}
        read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
        for node in nodes:
            for body in subgraphs(node):
                read |= names_read_inside(body)
        del model.graph.node[:]
        model.graph.node.extend(in_order(nodes))
        del model.graph.value_info[:]
        for name, value in self.context.expressions.constants.items():
            if name in read:
                model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        drop_unused_initializers(model)
        return model

    def _in_order(self) -> tuple[LoweredLayer, ...]:
        layers: list[LoweredLayer] = []
        integers = set(self.network.dequantized) if self.arithmetic.name != "gpu" else set()
        for node in self.graph.nodes:
            if node.name in self.layers:
                layers += self.layers[node.name]
            if node.name in self.members or node.name not in self.remaining or not is_layer(self.graph, node):
                continue
            if moves(node) and node.input[0] in integers:
                # Integers that it moves are read in float behind it: moved before or after, they are the same.
                integers.update(node.output)
                layers.append(LoweredLayer(node.name, node.op_type, (node.name,), "HW"))
                continue
            reason = self.reasons.get(node.name) or reason_for(self.graph, node, self.arithmetic)
            layers.append(LoweredLayer(node.name, node.op_type, (node.name,), "SW", reason=reason))
        return tuple(layers)


def _read_by_outputs(model: ModelProto, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes that an output of the network depends on, in the order given."""
    maker = {name: node for node in nodes for name in node.output if name}
    wanted: set[str] = set()
    waiting = [value.name for value in model.graph.output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in wanted:
            continue
        wanted.add(node.name)
        waiting.extend(name for name in node.input if name)
        for body in subgraphs(node):
            waiting.extend(names_read_inside(body))
    return [node for node in nodes if node.name in wanted]
