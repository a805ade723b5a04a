"""Running networks on this machine through ONNX Runtime: the float pass, and the emulated int8 one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from harness.data.network_files import is_outside, refer, region_of
from harness.errors import UserError
from harness.quantize.external import is_light

#: What ONNX Runtime raises; its classes share no base but Exception.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    ort_errors.ModelLoadCanceled,
    ort_errors.EPFail,
    RuntimeError,  # its Python side, of types that NumPy lacks
)

_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCES = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=\S)")

Feed = Mapping[str, NDArray[Any]]


def default_threads() -> int:
    """Threads for host work: two at most, as the boards' agents share the machine; one where only one may be used."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2, usable)


#: Turns signed activations into unsigned ones on x86. Where QuantizeLinear says `output_dtype` (since opset 21, and the
#: runtime itself writes it) it leaves int8 there beside a zero point of uint8, and the network does not load (1.31.1).
SIGN_CHANGER = "QDQS8ToU8Transformer"


#: Folds a Pad into the MaxPool behind it, whose own padding is -inf: zeros before negative values are lost (1.31.1).
PAD_FOLDER = "Pad_Fusion"


def optimizers_that_break(model: ModelProto) -> tuple[str, ...]:
    """ONNX Runtime optimizers that keep a network from loading, or from computing what it says."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    padded: set[str] = set()
    folds = False
    for node in model.graph.node:
        behind = bool(node.input) and node.input[0] in padded
        if node.op_type == "Pad" or (behind and node.op_type in {"QuantizeLinear", "DequantizeLinear"}):
            padded.add(node.output[0])
        folds = folds or (behind and node.op_type == "MaxPool")
    return ((SIGN_CHANGER,) if opset > 20 and quantized else ()) + ((PAD_FOLDER,) if folds else ())


def open_session(
    model: ModelProto,
    what: str,
    *,
    disabled_optimizers: Sequence[str] = (),
    threads: int | None = None,
    precise_x86_int8: bool = False,
) -> ort.InferenceSession:
    """Load a network into ONNX Runtime's CPU provider.

    Args:
        model: the network.
        what: how to call it in an error.
        disabled_optimizers: graph optimizers to switch off by name, beside those that break the network.
        threads: intra-op threads, `default_threads()` when None.
        precise_x86_int8: no 16-bit saturation on x86 without VNNI (slower).

    Raises:
        UserError: ONNX Runtime refuses the network.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning workers would bill CPU seconds to waiting.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if precise_x86_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if is_light(model):
        model, root = _from_root(model)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", root)
    try:
        return ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[*disabled_optimizers, *optimizers_that_break(model)] or None,
        )
    except RUNTIME_ERRORS as error:
        msg = f"{what}: ONNX Runtime cannot load it ({short_reason(error)}); run onnx.checker on the network"
        raise UserError(msg) from error


def short_reason(error: Exception) -> str:
    """What ONNX Runtime complains of, in one line: without its codes and the places in its own source."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = _CODES.sub("", line)
    # "/onnxruntime_src/…/model.cc:256 onnxruntime::Model::Model(…) Unsupported …": the signature ends with its ")"
    if "/onnxruntime_src/" in line:
        line = _SOURCES.sub("", line)
    return line.strip()[:240]


def _from_root(model: ModelProto) -> tuple[ModelProto, str]:
    """A copy that names the files of its tensors from the root of the file system, and that root.

    ONNX Runtime takes no absolute paths, and none that leave the folder it is given: ours are checked, and lie in
    two folders, that of the network and the scratch one. It maps one tensor at a time while it packs weights.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    root = os.path.sep
    for tensor in copy.graph.initializer:
        if is_outside(tensor):
            region = region_of(tensor)
            root = region.path.anchor
            refer(tensor, replace(region, path=region.path.relative_to(root)))
    return copy, root


def run_session(
    session: ort.InferenceSession, feed: Feed, what: str, outputs: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Run once; a refusal by the runtime becomes a one-line `UserError`."""
    try:
        result: list[NDArray[Any]] = session.run(list(outputs) if outputs is not None else None, dict(feed))
    except RUNTIME_ERRORS as error:
        msg = f"{what}: the network cannot run on this input ({short_reason(error)}); check shapes and types"
        raise UserError(msg) from error
    return result


def with_outputs(model: ModelProto, names: Sequence[str], *, only: bool = False) -> ModelProto:
    """A copy of the network that also returns these inner tensors.

    Args:
        model: the network.
        names: tensors to expose, in order, after the network's own outputs.
        only: return nothing but these.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info, *model.graph.input)}
    if only:
        del copy.graph.output[:]
    present = {value.name for value in copy.graph.output}
    for name in names:
        if name in present:
            continue
        present.add(name)
        value = known.get(name)
        # The runtime infers what the file does not say.
        copy.graph.output.append(value if value is not None else onnx.ValueInfoProto(name=name))
    return copy


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization-noise ratio, dB: 10·log10(Σ ref² / Σ (ref - other)²); infinite when equal."""
    signal = float(np.sum(np.square(reference, dtype=np.float64)))
    noise = float(np.sum(np.square(reference.astype(np.float64) - other.astype(np.float64))))
    if noise == 0:
        return float("inf")
    if signal == 0:
        return float("-inf")
    return float(10 * np.log10(signal / noise))
