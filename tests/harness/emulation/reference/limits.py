"""Layers whose positions the DPU's compiler does not take: they run in software."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from tests.harness.emulation.reference import dpu_units
from tests.harness.emulation.reference.activations import ACTIVATIONS

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def out_of_limits(graph: GraphProto, constants: Mapping[str, NDArray[Any]]) -> set[str]:
    """Names of the layers' operators."""
    return {node.name for node in graph.node if not _Positions(graph, constants).fit(node)}


class _Positions:
    def __init__(self, graph: GraphProto, constants: Mapping[str, NDArray[Any]]) -> None:
        self.constants = constants
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def fit(self, node: NodeProto) -> bool:
        if node.op_type not in _WEIGHTED | {"Add", "Sub"}:
            return True
        positions = [self._position(name) for name in node.input]
        end, bias = self._end(node)
        if end is None or len(positions) < 2 or positions[0] is None or positions[1] is None:
            return True  # no integers in, or none out: a matter of software or of a bias that belongs elsewhere
        if node.op_type in {"Add", "Sub"}:
            return dpu_units.sum_fits([positions[0], positions[1]], end)
        if len(positions) > 2:
            bias = positions[2]
        return dpu_units.weighted_fits(positions[0], positions[1], bias, end)

    def _position(self, name: str) -> int | None:
        maker = self.maker.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        return _position_of(self.constants[maker.input[1]])

    def _end(self, node: NodeProto) -> tuple[int | None, int | None]:
        """Position of the integers behind a node, and of a bias added on the way there."""
        bias = None
        while True:
            readers = self.readers.get(node.output[0], [])
            if len(readers) != 1:
                return None, bias
            behind = readers[0]
            if behind.op_type == "QuantizeLinear":
                return _position_of(self.constants[behind.input[1]]), bias
            if behind.op_type == "Add":
                other = next(name for name in behind.input if name != node.output[0])
                bias = self._position(other)
            elif behind.op_type not in ACTIVATIONS:
                return None, bias
            node = behind


def _position_of(step: NDArray[Any]) -> int:
    return -int(math.log2(float(np.ravel(step)[0])))
