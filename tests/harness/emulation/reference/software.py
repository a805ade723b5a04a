"""Single nodes through ONNX Runtime, unoptimized: software layers, and operators that only move values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, OperatorSetIdProto, helper, numpy_helper

Array = NDArray[Any]


class Software:
    """Runs one node at a time.

    Args:
        opsets: of the network that the nodes come from.
        constants: its initializers; a node finds its own among them.
    """

    def __init__(self, opsets: Sequence[OperatorSetIdProto], constants: Mapping[str, Array]) -> None:
        self.opsets = list(opsets)
        self.constants = constants
        self._sessions: dict[tuple[Any, ...], ort.InferenceSession] = {}

    def run(self, node: NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
        """Outputs of the node for these inputs (None: left out)."""
        feed: dict[str, Array] = {}
        fixed: dict[str, Array] = {}
        for name, value in zip(node.input, inputs, strict=True):
            if value is not None:
                # What kernels read ahead of time (shapes, axes) stays a constant.
                constant = name in self.constants and self.constants[name] is value
                (fixed if constant else feed)[name] = value
        key = (node.SerializeToString(), tuple((name, value.dtype.str, value.ndim) for name, value in feed.items()))
        if key not in self._sessions:
            self._sessions[key] = self._open(node, feed, fixed)
        results: list[Array] = self._sessions[key].run([name for name in node.output if name], feed)
        return results

    def _open(self, node: NodeProto, feed: Mapping[str, Array], fixed: Mapping[str, Array]) -> ort.InferenceSession:
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), [f"{name}.{axis}" for axis in range(value.ndim)]
                )
                for name, value in feed.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in fixed.items()],
        )
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
