"""How long a lowered SqueezeNet takes beside ONNX Runtime's own int8: `python -m benchmarks lowering`.

Both come from the same float network; the peer is its U8S8 Q/DQ form, which is what this processor runs fastest.
Two threads, blocks in alternating order.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import onnxruntime

from benchmarks import bare_loop, quantizer_networks
from benchmarks.figures import Effort, Goal, Result, Row
from harness.emulation import lower
from harness.quantize import Quantizer

THREADS = 2
_SAMPLES = 16
#: Seconds a block; its median is one repetition.
_BLOCK_S = 0.5
_GOAL = Goal("ratio", most=2.0)


def run(effort: Effort) -> Result:
    """Rows of the lowered networks, each against the peer of the same turn."""
    reason = quantizer_networks.missing()
    if reason:
        return Result((), (f"lowering: {reason}",))
    measured = quantizer_networks.load("squeezenet", _SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        sessions = _sessions(measured, Path(folder))
        feeds = {key: bare_loop.inputs(session) for key, session in sessions.items()}
        taken: dict[str, list[float]] = {key: [] for key in sessions}
        for key, session in sessions.items():  # all are steady before anything counts
            bare_loop.block(session, feeds[key], effort.block_s * _BLOCK_S)
        for number in range(effort.repetitions):
            order = list(sessions)
            for key in order if number % 2 == 0 else reversed(order):
                taken[key].append(bare_loop.block(sessions[key], feeds[key], effort.block_s * _BLOCK_S) / 1e6)
    peer = tuple(taken.pop("peer"))
    return Result(tuple(_row(key, tuple(values), peer) for key, values in taken.items()))


def _sessions(measured: quantizer_networks.Measured, folder: Path) -> dict[str, onnxruntime.InferenceSession]:
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    for environment in ("cpu", "fpga", "host"):
        quantizer = Quantizer(measured.model, environment=environment)
        quantizer.calibrate(measured.calibration)
        path = folder / f"{environment}.onnx"
        quantizer.quantize(path, method="minmax")
        if environment == "cpu":
            sessions["peer"] = _session(path)
            continue
        for int8_kernels in (False, True):
            lowered = lower(path, environment, int8_kernels=int8_kernels)
            out = folder / f"{environment}-{int8_kernels}.onnx"
            lowered.save(out)
            how = "integer kernels" if int8_kernels else "float32 carrier"
            sessions[f"{lowered.arithmetic.name}, {how}"] = _session(out, lowered.disabled_optimizers)
    sessions["float"] = _session(measured.model)
    return sessions


def _session(path: Path, disabled: tuple[str, ...] = ()) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def _row(key: str, ours: tuple[float, ...], peer: tuple[float, ...]) -> Row:
    name = "the float network, for comparison" if key == "float" else f"lowered to {key}"
    return Row(
        f"SqueezeNet {name}: latency, batch 1, {THREADS} threads",
        "ms",
        ours,
        peer_name="its U8S8 QDQ form",
        peer=peer,
        goal=None if key == "float" else _GOAL,
        note=f"ratio of medians {statistics.median(ours) / statistics.median(peer):.2f}",
    )
