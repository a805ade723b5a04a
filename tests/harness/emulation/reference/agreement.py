"""Comparing a lowered network with the reference: integers, outputs, and who computes what."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from harness.emulation import lower
from harness.emulation.lowered import Lowered
from harness.host import host_environment
from tests.harness.emulation.reference.executor import Reference, Result

Array = NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """What was compared, and where the two differ.

    Args:
        compared: integer tensor → number of values.
        differing: integer tensor or output → number of values that differ.
        missing: integers that the lowered network does not show under their name, those of software layers aside.
        lowered: the network under test.
        reference: what it should compute.
    """

    compared: dict[str, int]
    differing: dict[str, int]
    missing: set[str]
    lowered: Lowered
    reference: Result

    @property
    def hardware(self) -> set[str]:
        """Layers that the lowering computes in integers."""
        return {layer.name for layer in self.lowered.layers if layer.where == "HW"}


def run_lowered(
    model: ModelProto,
    disabled: tuple[str, ...],
    feed: Mapping[str, Array],
    extra: list[str],
    *,
    precise: bool = False,
) -> dict[str, Array]:
    """The network as ONNX Runtime executes it, optimized; with further tensors as outputs."""
    shown = ModelProto()
    shown.CopyFrom(model)
    outputs = [entry.name for entry in model.graph.output]
    wanted = [name for name in extra if name not in outputs]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if precise:
        # Integer kernels of x86 without VNNI saturate sums of two products unless told otherwise.
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return dict(zip(outputs + wanted, session.run(outputs + wanted, dict(feed)), strict=True))


def _tensors(model: ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def compare(path: Path, arithmetic: str, feed: Mapping[str, Array], lowered: Lowered | None = None) -> Agreement:
    """Lower a Q/DQ file, run it and the reference on the same data, and count what differs.

    Software layers are the lowering's choice here, so that each is compared with ONNX's own float arithmetic; tests
    that a layer is computed in integers ask `Agreement.hardware`.
    """
    made = lower(path, arithmetic) if lowered is None else lowered
    # A curve is the same function in double precision wherever it is computed.
    software = {
        name
        for layer in made.layers
        if layer.where == "SW" and layer.op_type not in {"Sigmoid", "Tanh"}
        for name in layer.members
    }
    reference = Reference(path, arithmetic, software).run(feed)
    named = {layer.integers for layer in made.layers if layer.integers is not None}
    known = _tensors(made.model)
    missing = named - known | named - set(reference.integers)
    assert not missing, f"tensors that a layer names and a graph lacks: {missing}"
    inside = [name for name in reference.integers if name in known]
    plain = run_lowered(made.model, made.disabled_optimizers, feed, [])
    shown = run_lowered(made.model, made.disabled_optimizers, feed, inside)
    differing = {}
    for name in inside:
        count = _differences(reference.integers[name], shown[name])
        if count:
            differing[name] = count
    for name, expected in reference.outputs.items():
        for got in (plain[name], shown[name]):
            count = _differences(expected, got)
            if count:
                differing[name] = count
    in_software = {name for layer in made.layers if layer.where == "SW" for name in layer.members}
    hidden = set(reference.integers) - set(inside) - _from(path, in_software)
    return Agreement({name: reference.integers[name].size for name in inside}, differing, hidden, made, reference)


def _from(path: Path, nodes: set[str]) -> set[str]:
    """Integers that the results of these nodes become."""
    graph = onnx.load(path).graph
    made = {name for node in graph.node if node.name in nodes for name in node.output}
    return {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in made}


def kernels_differ(path: Path, found: Agreement, feed: Mapping[str, Array], *, precise: bool = False) -> dict[str, int]:
    """Outputs of the network on the runtime's integer kernels, against the same reference: how many values differ."""
    made = lower(path, found.lowered.arithmetic, int8_kernels=True)
    got = run_lowered(made.model, made.disabled_optimizers, feed, [], precise=precise or not _exact_by_itself())
    counts = {name: _differences(expected, got[name]) for name, expected in found.reference.outputs.items()}
    return {name: count for name, count in counts.items() if count}


def _exact_by_itself() -> bool:
    """Whether integer kernels accumulate in 32 bits here: all but x86 without VNNI."""
    features = host_environment()["cpu_features"]
    assert isinstance(features, list)
    return platform.machine() not in {"x86_64", "AMD64"} or any("vnni" in feature for feature in features)


def _differences(expected: Array, got: Array) -> int:
    if expected.shape != got.shape:
        return max(expected.size, got.size, 1)
    return int(np.count_nonzero(expected.astype(np.float64) != got.astype(np.float64)))
