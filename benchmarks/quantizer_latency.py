"""int8 against float on this machine's processor: ours and ONNX Runtime's own U8S8 QDQ network, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from benchmarks import bare_loop
from benchmarks.figures import Effort, Goal, Row

#: Milliseconds would do for one; a block long enough to average the scheduler out, short enough to take many turns.
BLOCK_S = 0.4


def row(name: str, networks: Mapping[str, tuple[Path, Sequence[str]]], effort: Effort) -> Row:
    """Latency over float of both int8 networks, batch 1, one thread, medians of blocks in alternating order.

    Args:
        name: of the network, for the reader.
        networks: "float", "ours", "peer" → (file, optimizers that its session must switch off).
        effort: how many turns.
    """
    sessions = {key: _session(*value) for key, value in networks.items()}
    feeds = {key: bare_loop.inputs(session) for key, session in sessions.items()}
    taken: dict[str, list[float]] = {key: [] for key in sessions}
    block_s = effort.block_s * BLOCK_S
    for key, session in sessions.items():  # all are steady before anything counts
        bare_loop.block(session, feeds[key], block_s)
    for number in range(effort.repetitions):
        order = list(sessions)
        for key in order if number % 2 == 0 else reversed(order):
            taken[key].append(bare_loop.block(sessions[key], feeds[key], block_s) / 1e6)
    shown = ", ".join(f"{key} {statistics.median(values):.2f} ms" for key, values in taken.items())
    return Row(
        f"{name}: latency of int8 over float on this processor, batch 1, 1 thread",
        "x",
        tuple(mine / base for mine, base in zip(taken["ours"], taken["float"], strict=True)),
        peer_name="ONNX Runtime U8S8 QDQ (MinMax)",
        peer=tuple(theirs / base for theirs, base in zip(taken["peer"], taken["float"], strict=True)),
        goal=Goal("ratio", most=1.0),
        note=shown,
    )


def _session(model: Path, disabled: Sequence[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
