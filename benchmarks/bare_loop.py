"""The peer of the agent's timing: nothing but ONNX Runtime and a clock, in one process of its own.

    python -m benchmarks.bare_loop MODEL THREADS < commands

Each line of stdin is a block's least duration in seconds; the answer is one line with the block's median in ns.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime

LEAST_ITERATIONS = 30


def main() -> None:
    model, threads = sys.argv[1], int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = inputs(session)
    print("ready", flush=True)
    for line in sys.stdin:
        print(block(session, feeds, float(line)), flush=True)


def inputs(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """One sample of noise in 0..1 for each input, the same in every process."""
    random = np.random.default_rng(0)
    shapes = {each.name: [size if isinstance(size, int) else 1 for size in each.shape] for each in session.get_inputs()}
    return {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def block(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], least_s: float) -> int:
    """Run for at least `least_s`; the median latency in ns."""
    latencies: list[int] = []
    ends = time.perf_counter_ns() + int(least_s * 1e9)
    while time.perf_counter_ns() < ends or len(latencies) < LEAST_ITERATIONS:
        started = time.perf_counter_ns()
        session.run(None, feeds)
        latencies.append(time.perf_counter_ns() - started)
    return int(np.median(latencies))


if __name__ == "__main__":
    main()
