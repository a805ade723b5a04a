"""What watching a board costs the block it watches: blocks with telemetry at its fastest beside blocks without."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import psutil

from benchmarks.agent import client, running_agent
from benchmarks.bare_loop import LEAST_ITERATIONS, inputs
from benchmarks.figures import Effort, Goal, Result, Row
from harness.targets.client import AgentClient
from harness.targets.values import SessionChoice

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "harness/demo/digits.onnx"
SQUEEZENET = REPOSITORY.parent / "shared/data/models/squeezenet1.1.onnx"
#: The fastest that an agent samples.
INTERVAL_S = 0.1
GOAL = Goal("ratio", most=1.01)


def run(effort: Effort) -> Result:
    """Interleaved blocks, ABBA, for each network, one thread, telemetry of this machine."""
    models = [DIGITS]
    skipped: tuple[str, ...] = ()
    if SQUEEZENET.exists():
        models.append(SQUEEZENET)
    else:
        skipped = ("SqueezeNet 1.1: its file is not beside the repository",)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(Path(folder), tls=False) as agent,
        client(agent.address, None) as connection,
    ):
        for model in models:
            rows += _compare(connection, model, effort)
        rows.append(_processor_time(connection, agent.pid, effort))
    return Result(tuple(rows), skipped)


def _compare(agent: AgentClient, model: Path, effort: Effort) -> Iterator[Row]:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    agent.ship(model, digest)
    network = agent.prepare(digest, options=SessionChoice(intra_op_threads=1))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    agent.load_inputs(network.network_id, inputs(session))
    del session

    def block(*, watched: bool) -> tuple[float, float]:
        """Median and mean in ms."""
        with _watching(agent) if watched else contextlib.nullcontext():
            timed = agent.time_block(network.network_id, min_iterations=LEAST_ITERATIONS, min_duration_s=effort.block_s)
        return statistics.median(timed.latency_ns) / 1e6, statistics.fmean(timed.latency_ns) / 1e6

    block(watched=True)
    block(watched=False)
    pairs = []
    for number in range(effort.repetitions):
        first = block(watched=number % 2 == 0)
        second = block(watched=number % 2 == 1)
        pairs.append((first, second) if number % 2 == 0 else (second, first))
    agent.unload(network.network_id)
    for at, name in enumerate(("p50", "mean")):
        yield Row(
            figure=f"{name} latency of a block watched at {1 / INTERVAL_S:g} Hz, {model.stem}, 1 thread",
            unit="ms",
            ours=tuple(watched[at] for watched, _ in pairs),
            peer_name="the same block unwatched",
            peer=tuple(alone[at] for _, alone in pairs),
            goal=GOAL,
        )


def _processor_time(agent: AgentClient, pid: int, effort: Effort) -> Row:
    """Of the agent's process, threads and gRPC included, while nothing but telemetry runs: no noise of others in it."""
    process = psutil.Process(pid)

    def used_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    shares = []
    for _ in range(max(effort.repetitions // 3, 1)):
        with _watching(agent):
            began, before = time.perf_counter(), used_s()
            time.sleep(4 * effort.block_s)
            shares.append(100 * (used_s() - before) / (time.perf_counter() - began))
    return Row(
        figure=f"processor time of an agent that samples at {1 / INTERVAL_S:g} Hz",
        unit="% of a core",
        ours=tuple(shares),
    )


@contextlib.contextmanager
def _watching(agent: AgentClient) -> Iterator[None]:
    """A stream of samples, taken and thrown away."""
    started, done = threading.Event(), threading.Event()

    def take() -> None:
        samples = agent.telemetry(INTERVAL_S)
        for _ in samples:
            started.set()
            if done.is_set():
                break
        del samples  # closed, and with it the stream on the board

    reader = threading.Thread(target=take, name="telemetry")
    reader.start()
    started.wait()
    try:
        yield
    finally:
        done.set()
        reader.join()
