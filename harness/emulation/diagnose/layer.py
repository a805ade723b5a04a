"""One layer of a quantized network as it stands in the file: operator, integers, steps, fused activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.emulation.diagnose.points import data_input, is_shortcut
from harness.quantize.graph import Graph

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """How integers stand for real numbers.

    Args:
        scale: real value of one step; of several elements where each channel has its own.
        zero_point: the integer that stands for 0.
        low: the smallest integer of the type.
        high: the largest.
    """

    scale: Float64
    zero_point: int
    low: int
    high: int

    @property
    def power_of_two(self) -> bool:
        """Whether every scale is 2^n."""
        return bool(np.all(np.frexp(self.scale)[0] == 0.5))


@dataclass(frozen=True, slots=True)
class Operand:
    """What an operator reads.

    Args:
        tensor: name of the integer tensor; None for a stored one.
        values: the stored integers; None for a tensor that is computed.
        step: of either.
    """

    tensor: str | None
    values: Int64 | None
    step: Step


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer between integers and integers.

    Args:
        node: the operator; None for an input that becomes integers.
        operands: its data inputs and stored weights, in the operator's order, bias excluded.
        bias: integers and their step; None without one or where it is float.
        float_bias: of a layer whose bias stays in single precision.
        activations: fused functions with their stored parameters, in order.
        out: steps of the result.
        source: the float tensor of an input.
        shortcut: integers that are added behind the weighted operator, in front of the functions.
    """

    node: NodeProto | None
    operands: tuple[Operand, ...]
    bias: Operand | None
    float_bias: NDArray[np.float32] | None
    activations: tuple[tuple[NodeProto, tuple[Float64, ...]], ...]
    out: Step
    source: str | None = None
    shortcut: Operand | None = None


#: Operators whose third input is a bias.
_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def read_layer(graph: Graph, tensor: str) -> Layer | None:
    """The layer that makes an integer tensor; None where it is more than one operator or reads floats.

    Args:
        graph: the quantized network.
        tensor: output of a QuantizeLinear.
    """
    quantizer = graph.producer[tensor]
    out = _step(graph, quantizer)
    if out is None:
        return None
    name = str(quantizer.input[0])
    fused: list[tuple[NodeProto, tuple[Float64, ...]]] = []
    bias: str | None = None
    shortcut: Operand | None = None
    node = graph.producer.get(name)
    if node is None:
        return Layer(None, (), None, None, (), out, source=name)
    while (behind := data_input(graph, node)) is not None:
        source = graph.producer.get(behind)
        if source is None or source.op_type == "DequantizeLinear":
            break
        if node.op_type == "Add":
            other = str(node.input[1] if node.input[0] == behind else node.input[0])
            if not is_shortcut(graph, other):
                bias = other
            elif shortcut is None and bias is None:
                shortcut = _operand(graph, other)
                if shortcut is None:
                    return None
            else:
                return None
        elif shortcut is not None:
            return None  # a function in front of the sum
        else:
            parameters = _parameters(graph, node)
            if parameters is None:
                return None
            fused.insert(0, (node, parameters))
        node = source
    names = [str(entry) for entry in node.input]
    if node.op_type in _BIASED and len(names) > 2 and names[2]:
        bias = names[2]
    data = names[:2] if node.op_type in _BIASED else _data_inputs(graph, node, names)
    operands = [_operand(graph, entry) for entry in data]
    if not operands or any(one is None for one in operands):
        return None
    stored = None if bias is None else _operand(graph, bias)
    single = None
    if bias is not None and stored is None:
        if not graph.is_constant(bias):
            return None
        single = np.asarray(graph.array(bias), np.float32)
    return Layer(
        node, tuple(one for one in operands if one is not None), stored, single, tuple(fused), out, shortcut=shortcut
    )


def _data_inputs(graph: Graph, node: NodeProto, names: list[str]) -> list[str]:
    """Without shapes, axes and an activation's own parameters."""
    if node.op_type in {"Add", "Sub", "Mul", "MatMul", "Concat"}:
        return names
    return names[:1] if all(graph.is_constant(name) or not name for name in names[1:]) else []


def _parameters(graph: Graph, node: NodeProto) -> tuple[Float64, ...] | None:
    """Stored inputs of a fused function; NaN for one that is left out."""
    found = []
    for name in node.input[1:]:
        if not name:
            found.append(np.array(np.nan))
            continue
        operand = _operand(graph, name)
        if operand is not None and operand.values is not None:
            found.append(operand.values * operand.step.scale)
        elif graph.is_constant(name):
            found.append(np.asarray(graph.array(name), np.float64))
        else:
            return None
    return tuple(found)


def parameters_of(graph: Graph, node: NodeProto) -> tuple[Float64, ...] | None:
    """Stored inputs behind the first one, as floats; None where one is computed."""
    return _parameters(graph, node)


def _operand(graph: Graph, name: str) -> Operand | None:
    node = graph.producer.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    step = _step(graph, node)
    if step is None:
        return None
    source = str(node.input[0])
    if graph.is_constant(source):
        return Operand(None, np.asarray(graph.array(source), np.int64), step)
    maker = graph.producer.get(source)
    return Operand(source, None, step) if maker is not None and maker.op_type == "QuantizeLinear" else None


def _step(graph: Graph, node: NodeProto) -> Step | None:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear; None where they are computed or differ."""
    if any(not graph.is_constant(name) for name in node.input[1:] if name):
        return None
    scale = np.asarray(graph.array(node.input[1]), np.float64)
    dtype = np.dtype(np.uint8)
    zero = 0
    if len(node.input) > 2 and node.input[2]:
        zeros = np.asarray(graph.array(node.input[2]))
        dtype = zeros.dtype
        if zeros.size and np.any(zeros != zeros.flat[0]):
            return None
        zero = int(zeros.flat[0]) if zeros.size else 0
    elif graph.is_constant(node.input[0]):
        dtype = np.asarray(graph.array(node.input[0])).dtype
    if dtype.kind not in "iu":
        return None
    limits = np.iinfo(dtype)
    return Step(scale, zero, int(limits.min), int(limits.max))
