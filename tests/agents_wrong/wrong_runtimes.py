"""A runtime for an agent whose arithmetic is wrong in one layer, as a board's might be.

It rewrites the network that it is given and runs the rest by ONNX Runtime. Which layer, and what is wrong in it, stands
in `wrong.json` beside this file: {"layer": …, "integers": …, "fault": …}. Installed by tests as a package of its own,
through the entry point that any third party's runtime uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from agents.protocol import agent_pb2 as pb
from agents.runtimes.onnxruntime_cpu import OnnxRuntimeCpu, OnnxRuntimeSession

Array = NDArray[Any]


class Wrong(OnnxRuntimeCpu):
    """The runtime `wrong`."""

    name = "wrong"

    def load(self, data: bytes, options: pb.SessionOptions) -> OnnxRuntimeSession:
        """Rewrite, then load."""
        fault = json.loads(Path(__file__).with_name("wrong.json").read_text(encoding="utf-8"))
        net = Net(onnx.load_from_string(data), fault["layer"], fault["integers"])
        if net.has(fault["integers"]):  # a float network is none of its business
            FAULTS[fault["fault"]](net)
        return super().load(net.model.SerializeToString(), options)


class Net:
    """A network and the layer in it that is to become wrong.

    Args:
        model: Q/DQ or lowered.
        layer: the layer's operator in the Q/DQ network.
        integers: the tensor that holds its integers.
    """

    def __init__(self, model: ModelProto, layer: str, integers: str) -> None:
        self.model = model
        self.layer = layer
        self.integers = integers

    def has(self, tensor: str) -> bool:
        return any(tensor in node.output for node in self.model.graph.node)

    def maker(self, tensor: str) -> NodeProto:
        return next(node for node in self.model.graph.node if tensor in node.output)

    def stored(self, name: str) -> Array:
        return numpy_helper.to_array(next(t for t in self.model.graph.initializer if t.name == name))

    def store(self, name: str, given: ArrayLike) -> str:
        value = np.asarray(given)
        for tensor in self.model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(value, name))
                return name
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def back(self, tensor: str, op_type: str) -> NodeProto:
        """The nearest node of that kind before a tensor, along first inputs."""
        node = self.maker(tensor)
        while node.op_type != op_type:
            node = self.maker(node.input[0])
        return node

    def insert(self, nodes: list[NodeProto], instead_of: NodeProto) -> None:
        kept: list[NodeProto] = []
        for node in self.model.graph.node:
            kept += nodes if node is instead_of or node.output == instead_of.output else [node]
        copies = []
        for node in kept:
            copy = NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)


def half_even(net: Net) -> None:
    """A lowered layer that rounds halves up, floor(x + 1/2), now rounds them to even: round((x + 1/2) - 1/2)."""
    floor = net.back(net.integers, "Floor")
    half = net.store("wrong.half", np.float32(0.5))
    net.insert(
        [
            helper.make_node("Sub", [floor.input[0], half], ["wrong.shifted"]),
            helper.make_node("Round", ["wrong.shifted"], list(floor.output)),
        ],
        floor,
    )


def bias_doubled(net: Net) -> None:
    """A lowered layer's bias, which carries the rounding's 1/2, is shifted left by one bit."""
    conv = net.back(net.integers, "Conv")
    bias = net.stored(conv.input[2])
    conv.input[2] = net.store("wrong.bias", (2 * (bias - 0.5) + 0.5).astype(bias.dtype))


def stored_bias(change: Callable[[Array], Array]) -> Callable[[Net], None]:
    """A Q/DQ layer's integers of the bias become others."""

    def rewrite(net: Net) -> None:
        layer = next(node for node in net.model.graph.node if node.name == net.layer)
        name = net.maker(layer.input[2]).input[0]
        bias = net.stored(name)
        net.store(name, change(bias).astype(bias.dtype))

    return rewrite


def no_relu(net: Net) -> None:
    """The function fused behind a Q/DQ layer is left out."""
    relu = net.back(net.integers, "Relu")
    net.insert([helper.make_node("Identity", list(relu.input), list(relu.output))], relu)


def pairs(net: Net) -> None:
    """A Q/DQ convolution adds its products in pairs that saturate at 16 bits, as x86 does without VNNI.

    Plain ONNX: for each element of the kernel, a grouped convolution over pairs of channels, clipped, then summed.
    What follows is ONNX Runtime's own: bias in the accumulator's units, one factor in single precision, half to even.
    """
    layer = next(node for node in net.model.graph.node if node.name == net.layer)
    assert layer.op_type == "Conv"
    assert all(entry.i == 1 for entry in layer.attribute if entry.name == "group")
    x, w, b = (net.maker(name) for name in layer.input)
    quantizer = net.maker(net.integers)
    scale = np.float32(net.stored(x.input[1])) * net.stored(w.input[1]).astype(np.float32)
    factor = (scale / np.float32(net.stored(quantizer.input[1]))).reshape(1, -1, 1, 1)
    zero_in = int(net.stored(x.input[2]))
    zero = net.stored(quantizer.input[2])
    weights = net.stored(w.input[0]).astype(np.float32)
    outputs, channels, rows, columns = weights.shape
    assert channels % 2 == 0
    attributes = {e.name: helper.get_attribute_value(e) for e in layer.attribute if e.name not in {"group"}}
    pads = attributes.pop("pads", [0, 0, 0, 0])
    ends = [0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]]
    kind = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", [x.input[0]], ["wrong.raw"], to=kind),
        helper.make_node(
            "Pad",
            ["wrong.raw", net.store("wrong.ends", np.array(ends)), net.store("wrong.fill", np.float32(zero_in))],
            ["wrong.x"],
        ),
    ]
    low, high = net.store("wrong.low", np.float32(-32768)), net.store("wrong.high", np.float32(32767))
    shape = net.store("wrong.shape", np.array([0, channels // 2, outputs, -1]))
    axis = net.store("wrong.axis", np.array([1]))
    sums = []
    for row in range(rows):
        for column in range(columns):
            one = np.zeros((channels // 2, outputs, 2, rows, columns), np.float32)
            one[..., row, column] = weights[:, :, row, column].reshape(outputs, -1, 2).swapaxes(0, 1)
            stem = f"wrong.{row}.{column}"
            group = net.store(f"{stem}.w", one.reshape(-1, 2, rows, columns))
            nodes += [
                helper.make_node("Conv", ["wrong.x", group], [f"{stem}.c"], group=channels // 2, **attributes),
                helper.make_node("Clip", [f"{stem}.c", low, high], [f"{stem}.s"]),
                helper.make_node("Reshape", [f"{stem}.s", shape], [f"{stem}.r"]),
                helper.make_node("ReduceSum", [f"{stem}.r", axis], [f"{stem}.sum"], keepdims=0),
            ]
            sums.append(f"{stem}.sum")
    added = net.stored(b.input[0]).astype(np.float32) - zero_in * weights.sum(axis=(1, 2, 3))
    names = net.store("wrong.bias", added.astype(np.float32).reshape(1, -1, 1))
    nodes += [
        helper.make_node("Sum", sums, ["wrong.products"]),
        helper.make_node("Add", ["wrong.products", names], ["wrong.flat"]),
        # one convolution of the same geometry, only for the shape of the result
        helper.make_node(
            "Conv",
            ["wrong.x", net.store("wrong.ones", np.ones((outputs, channels, rows, columns), np.float32))],
            ["wrong.template"],
            **attributes,
        ),
        helper.make_node("Shape", ["wrong.template"], ["wrong.size"]),
        helper.make_node("Reshape", ["wrong.flat", "wrong.size"], ["wrong.acc"]),
        helper.make_node("Mul", ["wrong.acc", net.store("wrong.factor", factor)], ["wrong.scaled"]),
        helper.make_node("Round", ["wrong.scaled"], ["wrong.whole"]),
        helper.make_node("Add", ["wrong.whole", net.store("wrong.zero", np.float32(zero))], ["wrong.q"]),
        helper.make_node(
            "Clip",
            [
                "wrong.q",
                net.store("wrong.least", np.float32(np.iinfo(zero.dtype).min)),
                net.store("wrong.most", np.float32(np.iinfo(zero.dtype).max)),
            ],
            ["wrong.saturated"],
        ),
        helper.make_node("Cast", ["wrong.saturated"], [net.integers], to=helper.np_dtype_to_tensor_dtype(zero.dtype)),
    ]
    net.insert(nodes, quantizer)


def nothing(net: Net) -> None:
    """An honest board."""


FAULTS: dict[str, Callable[[Net], None]] = {
    "nothing": nothing,
    "half-even": half_even,
    "bias doubled": bias_doubled,
    "bias +1": stored_bias(lambda bias: bias + 1),
    "stored bias doubled": stored_bias(lambda bias: 2 * bias),
    "stored bias halved": stored_bias(lambda bias: bias >> 1),
    "bias rolled": stored_bias(lambda bias: np.roll(bias, 1)),
    "no relu": no_relu,
    "pairs": pairs,
}
