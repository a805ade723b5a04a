"""A quantized network, node by node, in the numbers of docs/emulation.md: integers where a board has integers.

Written from that page alone, in whole numbers of any size; knows nothing of the lowering that it is compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from tests.harness.emulation.reference.activations import ACTIVATIONS, Curve, activated
from tests.harness.emulation.reference.layers import layer
from tests.harness.emulation.reference.limits import out_of_limits
from tests.harness.emulation.reference.rational import Exact, Mode, rounded, scaled
from tests.harness.emulation.reference.single import Stepped, single
from tests.harness.emulation.reference.software import Software

Array = NDArray[Any]
Value = Array | Exact | Curve | Stepped

_LAYERS: Mapping[str, Mode] = {"dpu": "half-up", "mathworks": "half-away", "host": "half-away", "gpu": "half-even"}


@dataclass(frozen=True)
class Result:
    """What a network computed.

    Args:
        integers: output of each QuantizeLinear → its integers.
        outputs: output of the network → its values.
        software: nodes that were computed in float.
    """

    integers: dict[str, Array]
    outputs: dict[str, Array]
    software: frozenset[str]


class Reference:
    """Executes one quantized network.

    Args:
        path: the Q/DQ file.
        arithmetic: dpu, mathworks, host or gpu.
        software: nodes to compute in float although the page covers them.
    """

    def __init__(self, path: Path, arithmetic: str, software: Collection[str] = ()) -> None:
        self.graph = onnx.load(path).graph
        model = onnx.load(path, load_external_data=False)
        self.arithmetic = arithmetic
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }
        self.software = Software(model.opset_import, self.constants)
        self.in_software = set(software)
        self.steps_behind = {
            node.input[0]: float(self.constants[node.input[1]])
            for node in self.graph.node
            if node.op_type == "QuantizeLinear"
        }
        if arithmetic == "dpu":
            self.in_software |= out_of_limits(self.graph, self.constants)

    def run(self, feed: Mapping[str, Array]) -> Result:
        """Run the network.

        Args:
            feed: input → values.
        """
        values: dict[str, Value] = {**self.constants, **feed}
        integers: dict[str, Array] = {}
        in_float: set[str] = set()
        for node in self.graph.node:
            inputs: list[Any] = [values[name] if name else None for name in node.input]
            if node.op_type == "QuantizeLinear":
                made: list[Any] = [self._quantized(*inputs)]
                integers[node.output[0]] = made[0]
            elif node.op_type == "DequantizeLinear":
                made = [self._dequantized(node, *inputs)]
            else:
                found = None if node.name in self.in_software else self._layer(node, inputs)
                if found is None:
                    in_float.add(node.name)
                    found = self.software.run(node, [_float(value) for value in inputs])
                made = found
            values.update(zip((name for name in node.output if name), made, strict=False))
        outputs = {entry.name: np.asarray(_float(values[entry.name])) for entry in self.graph.output}
        return Result(integers, outputs, frozenset(in_float))

    def _layer(self, node: NodeProto, inputs: list[Any]) -> list[Any] | None:
        if self.arithmetic == "gpu":
            return single(node, inputs)
        if node.op_type in ACTIVATIONS:
            return activated(node, inputs, dpu=self.arithmetic == "dpu")
        behind = self.steps_behind.get(node.output[0])
        return layer(node, inputs, self.software, behind, dpu=self.arithmetic == "dpu")

    def _quantized(self, value: Value, step: Array, zero_point: Array | None = None) -> Array:
        kind = np.dtype(np.uint8) if zero_point is None else zero_point.dtype
        mode = _LAYERS[self.arithmetic]
        if isinstance(value, Exact):
            return rounded(value, float(step), mode, kind)
        if isinstance(value, Curve):
            # A curve is computed in software on an FPGA: half-away.
            return _entering(value.numbers, np.float64(step), "half-away" if mode == "half-up" else mode, kind)
        numbers = np.asarray(_float(value))
        if self.arithmetic == "gpu":
            return _entering(numbers / np.asarray(step, np.float32), None, "half-even", kind)
        return _entering(numbers.astype(np.float64), np.float64(step), "half-away", kind)

    def _dequantized(self, node: NodeProto, value: Array, step: Array, zero_point: Array | None = None) -> Value:
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        steps = np.asarray(step, np.float32)
        if steps.ndim == 1 and value.ndim and not (steps.size == 1 and value.shape[axis] != 1):
            steps = steps.reshape([-1 if at == axis % value.ndim else 1 for at in range(value.ndim)])
        elif steps.size == 1:
            steps = steps.reshape(())
        assert zero_point is None or not np.any(zero_point), "the page has zero points of 0 only"
        if self.arithmetic == "gpu":
            return Stepped(value, steps, constant=node.input[0] in self.constants)
        return replace(scaled(value, steps), levels=value.dtype)


def _float(value: Value | None) -> Array | None:
    if isinstance(value, Exact | Stepped):
        return value.float32()
    if isinstance(value, Curve):
        return value.numbers.astype(np.float32)
    return value


def _entering(numbers: Array, step: np.float64 | None, mode: Mode, kind: np.dtype[Any]) -> Array:
    """clip(R(x / s)); of a float32 and a power of two every operation here is exact in float64 (or far saturated)."""
    quotient = numbers if step is None else numbers / step
    if mode == "half-away":
        whole = np.sign(quotient) * np.floor(np.abs(quotient) + 0.5)
    else:
        whole = np.rint(quotient)
    info = np.iinfo(kind)
    return np.asarray(np.clip(whole, info.min, info.max)).astype(kind)
