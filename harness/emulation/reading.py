"""From a Q/DQ file to its integers: which layers compute on integers, and what they are made of."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from harness.emulation.integer_network import Constant, Entering, IntegerNetwork, Layer, Operand, QuantizedTensor
from harness.quantize.graph import Graph, attribute

#: Operators with weights or two factors.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Computed on a layer's way out, or on integers alone.
FUNCTIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"})
#: Those that a board computes behind another operator before it rounds.
FUSED = FUNCTIONS - {"Sigmoid", "Tanh"}
#: Operators all of whose inputs are values.
_ALL_VALUES = frozenset({"Add", "Sub", "Mul", "Concat"})

_TYPES = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255)}
_CONSTANT_TYPES = {*_TYPES, TensorProto.INT32, TensorProto.INT16, TensorProto.UINT16}


class _Refused(Exception):
    """Why something is no int8 layer, for a reader."""


def read(graph: Graph) -> IntegerNetwork:
    """Find the integers of a quantized network.

    Args:
        graph: with types inferred, nodes named uniquely and in order.
    """
    return _Reader(graph).network()


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.quantized: dict[str, QuantizedTensor] = {}
        self.dequantized: dict[str, QuantizedTensor] = {}
        self.constants: dict[str, Constant] = {}
        self.untouched: dict[str, str] = {}

    def network(self) -> IntegerNetwork:
        quantizers: list[NodeProto] = []
        for node in self.graph.nodes:
            try:
                if node.op_type == "QuantizeLinear":
                    self.quantized[node.output[0]] = self._quantized(node)
                    quantizers.append(node)
                elif node.op_type == "DequantizeLinear":
                    self._dequantize(node)
            except _Refused as refusal:
                self.untouched[node.name] = str(refusal)
        made = tuple(self._made(node) for node in quantizers)
        return IntegerNetwork(made, self.dequantized, self.constants, self.untouched)

    # --- tensors ---

    def _step(self, node: NodeProto) -> float:
        for name in node.input[1:]:
            if name and not self.graph.is_constant(name):
                raise _Refused("its scale is computed at run time")
        scale = self.graph.array(node.input[1])
        if scale.size != 1 or scale.dtype != np.float32:
            raise _Refused("its scale is not one float32 number for the whole tensor")
        if len(node.input) > 2 and node.input[2] and np.any(self.graph.array(node.input[2])):
            raise _Refused("its zero point is not 0")
        step = float(scale.reshape(-1)[0])
        if not (np.isfinite(step) and step > 0):
            raise _Refused("its scale is no positive number")
        return step

    def _quantized(self, node: NodeProto) -> QuantizedTensor:
        step = self._step(node)
        kind = attribute(node, "output_dtype", 0)
        if len(node.input) > 2 and node.input[2]:
            kind = self.graph.element_type(node.input[2])
        low, high = _TYPES.get(kind or TensorProto.UINT8, (0, 0))
        if low == high:
            raise _Refused("its integers are neither int8 nor uint8")
        if self.graph.element_type(node.input[0]) not in {None, TensorProto.FLOAT}:
            raise _Refused("what it quantizes is not float32")
        name = node.output[0]
        readers = [use.node for use in self.graph.uses[name]]
        if name in self.graph.outputs or name in self.graph.read_in_bodies:
            raise _Refused("its integers leave the network")
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            raise _Refused("something other than DequantizeLinear reads its integers")
        for reader in readers:
            self._step(reader)
        return QuantizedTensor(name, step, low, high)

    def _dequantize(self, node: NodeProto) -> None:
        source = node.input[0]
        if source in self.quantized:
            found = self.quantized[source]
            self.dequantized[node.output[0]] = QuantizedTensor(source, self._step(node), found.low, found.high)
        elif self.graph.is_constant(source):
            self.constants[node.output[0]] = self._constant(node)
        else:
            raise _Refused("its integers are not made by a QuantizeLinear that is understood")

    def _constant(self, node: NodeProto) -> Constant:
        if self.graph.element_type(node.input[0]) not in _CONSTANT_TYPES or attribute(node, "block_size", 0):
            raise _Refused("a constant of a type or layout that no int8 layer takes")
        if any(name and not self.graph.is_constant(name) for name in node.input[1:]):
            raise _Refused("a constant whose scale is computed at run time")
        values = self.graph.array(node.input[0]).astype(np.int64)
        scale = self.graph.array(node.input[1]).astype(np.float32)
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[int(attribute(node, "axis", 1))] = -1
        zero_points = np.zeros(1, np.int64)
        if len(node.input) > 2 and node.input[2]:
            zero_points = self.graph.array(node.input[2]).astype(np.int64)
        if zero_points.size > 1:
            zero_points = zero_points.reshape(shape)
        return Constant(values - zero_points.reshape(zero_points.shape if zero_points.size > 1 else ()),
                        scale.reshape(shape), node.output[0])  # fmt: skip

    # --- layers ---

    def _made(self, quantizer: NodeProto) -> Layer | Entering:
        result = self.quantized[quantizer.output[0]]
        source = quantizer.input[0]
        maker = self.graph.producer.get(source)
        if maker is None:
            return Entering(source, result, "", "")
        try:
            return self._layer(source, result)
        except _Refused as refusal:
            return Entering(source, result, str(refusal), maker.name)

    def _layer(self, source: str, result: QuantizedTensor) -> Layer:
        functions: list[NodeProto] = []
        members: list[str] = []
        tensor = source
        node = self._maker(tensor)
        while node.op_type in FUSED and node.input[0] not in self.dequantized:
            functions.insert(0, node)
            members.insert(0, node.name)
            tensor = node.input[0]
            node = self._maker(tensor)
        node, tensor, bias = self._through_bias(node, tensor, members)
        slots = range(len(node.input)) if node.op_type in _ALL_VALUES | PRODUCTS else range(1)
        operands = {slot: self._operand(node, slot) for slot in slots if node.input[slot]}
        members.insert(0, node.name)
        output = list(node.output).index(tensor)
        return Layer(node, operands, result, output, bias, tuple(functions), tuple(members))

    def _maker(self, tensor: str) -> NodeProto:
        node = self.graph.producer.get(tensor)
        if node is None:
            raise _Refused("an activation function of the network's input, in float")
        if node.domain not in {"", "ai.onnx"}:
            raise _Refused(f"{node.domain}::{node.op_type} is no operator of ONNX")
        return node

    def _through_bias(self, node: NodeProto, tensor: str, members: list[str]) -> tuple[NodeProto, str, Constant | None]:
        if node.op_type == "Add":
            for slot in (0, 1):
                bias, other = self.constants.get(node.input[slot]), node.input[1 - slot]
                maker = self.graph.producer.get(other)
                if bias is not None and maker is not None and maker.op_type in PRODUCTS and not maker.domain:
                    members.insert(0, node.name)
                    return maker, other, bias
        return node, tensor, None

    def _operand(self, node: NodeProto, slot: int) -> Operand:
        name = node.input[slot]
        found = self.dequantized.get(name) or self.constants.get(name)
        if found is not None:
            return found
        if self.graph.is_constant(name):
            raise _Refused(f"{name!r}, an operand, is a float constant")
        maker = self.graph.producer.get(name)
        if maker is None:
            raise _Refused(f"it reads {name!r} in float")
        raise _Refused(f"it reads what {maker.name!r} ({maker.op_type}) makes in float")
