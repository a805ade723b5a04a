"""Quantized networks written by hand: chosen integers, steps and positions, named as harness.quantize names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]


class Written:
    """A Q/DQ network in the making; every method returns the name of a float tensor, the dequantized one.

    Args:
        opset: of the file.
    """

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []

    def constant(self, name: str, value: Array) -> str:
        """A plain initializer."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def input(self, name: str, shape: Sequence[int | str], step: float, kind: type = np.int8) -> str:
        """A float input that becomes integers at once."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return self.pair(name, step, kind)

    def pair(self, name: str, step: float, kind: type = np.int8) -> str:
        """QuantizeLinear and DequantizeLinear behind a float tensor."""
        self.constant(f"{name}.scale", np.asarray(step, np.float32))
        self.constant(f"{name}.zero_point", np.asarray(0, kind))
        scale = [f"{name}.scale", f"{name}.zero_point"]
        self._node("QuantizeLinear", [name, *scale], f"{name}.quantized", f"{name}.QuantizeLinear")
        return self._node(
            "DequantizeLinear", [f"{name}.quantized", *scale], f"{name}.dequantized", f"{name}.DequantizeLinear"
        )

    def integers(
        self, name: str, values: Array, step: float | np.floating[Any] | Array, axis: int | None = None
    ) -> str:
        """Integers of the file with their step, or a step for each index along an axis."""
        steps = np.asarray(step, np.float32)
        self.constant(name, values)
        self.constant(f"{name}.scale", steps)
        self.constant(f"{name}.zero_point", np.zeros(steps.shape, values.dtype))
        given = {} if axis is None else {"axis": axis}
        inputs = [name, f"{name}.scale", f"{name}.zero_point"]
        return self._node("DequantizeLinear", inputs, f"{name}.dequantized", f"{name}.DequantizeLinear", **given)

    def op(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:  # noqa: ANN401  # ONNX's own
        """A float operator; its output is not quantized yet."""
        return self._node(op_type, inputs, output, output, **attributes)

    def split(self, inputs: Sequence[str], outputs: Sequence[str], axis: int) -> list[str]:
        """A Split."""
        self.nodes.append(helper.make_node("Split", list(inputs), list(outputs), name=outputs[0], axis=axis))
        return list(outputs)

    def output(self, name: str) -> None:
        """Make a tensor an output of the network."""
        self.outputs.append(name)

    def save(self, path: Path) -> Path:
        """Write the file."""
        graph = helper.make_graph(
            self.nodes,
            "written",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path

    def _node(self, op_type: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output
