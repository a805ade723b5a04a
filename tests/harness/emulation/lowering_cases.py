"""Small Q/DQ networks for the lowering's own tests, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.emulation.arithmetic import ARITHMETICS
from harness.emulation.lowered import Lowered
from harness.emulation.lowering.network import lower_model
from harness.quantize.runtime import open_session, with_outputs

Array = NDArray[Any]


class Network:
    """Collects nodes and constants; `model` makes a network of them."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def pair(self, tensor: str, exponent: int, dtype: type = np.int8, zero_point: int = 0) -> str:
        """Quantize and dequantize; the dequantized tensor's name."""
        self.constants |= {
            f"{tensor}.s": np.asarray(2.0**exponent, np.float32),
            f"{tensor}.z": np.asarray(zero_point, dtype),
        }
        self.node("QuantizeLinear", [tensor, f"{tensor}.s", f"{tensor}.z"], f"{tensor}.quantized")
        return self.node("DequantizeLinear", [f"{tensor}.quantized", f"{tensor}.s", f"{tensor}.z"], f"{tensor}.d")

    def integers(self, name: str, values: Array, exponent: int) -> str:
        """A constant at a step; the dequantized tensor's name."""
        self.constants |= {name: values, f"{name}.s": np.asarray(2.0**exponent, np.float32)}
        return self.node("DequantizeLinear", [name, f"{name}.s"], f"{name}.d")

    def model(self, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], opset: int = 18) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        made.ir_version = 9
        return made


def convolution(
    weights: Array, bias: Array | None, exponents: tuple[int, int, int, int], shape: Sequence[int], *, relu: bool,
    dtype: type = np.int8, into: type = np.int8,
) -> ModelProto:  # fmt: skip
    """One convolution.

    Args:
        weights: int8.
        bias: int8 or int32, None without.
        exponents: of the steps of data, weights, bias, result.
        shape: of the input x.
        relu: whether one is fused behind.
        dtype: type of the data.
        into: type of the result.
    """
    network = Network()
    data, weight, added, result = exponents
    inputs = [network.pair("x", data, dtype), network.integers("w", weights, weight)]
    if bias is not None:
        inputs.append(network.integers("b", bias, added))
    made = network.node("Conv", inputs, "layer")
    if relu:
        made = network.node("Relu", [made], "layer.relu")
    out = network.pair(made, result, into)
    return network.model({"x": shape}, [out])


def lowered(model: ModelProto, arithmetic: str, *, int8_kernels: bool = False) -> Lowered:
    return lower_model(model, ARITHMETICS[arithmetic], "network", int8_kernels=int8_kernels)


def integers_of(found: Lowered, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Layer → its integers, and every output of the network."""
    names = [layer.integers for layer in found.layers if layer.integers is not None]
    model = with_outputs(found.model, names)
    session = open_session(model, "network", disabled_optimizers=found.disabled_optimizers, threads=1)
    outputs = [value.name for value in session.get_outputs()]
    values = dict(zip(outputs, session.run(None, dict(feed)), strict=True))
    return values | {layer.name: values[layer.integers] for layer in found.layers if layer.integers is not None}
