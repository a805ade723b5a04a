"""What watching a board costs the block it watches: blocks with a run's own telemetry beside them, and without.

At the rate of a run and at the fastest that an agent allows, alternating with unwatched blocks of the same network. A
run states the same of itself (`observer_cost_percent`) from every fourth pair, which it leaves unwatched.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import psutil

from benchmarks.agent import client, running_agent
from benchmarks.bare_loop import LEAST_ITERATIONS, inputs
from benchmarks.figures import Effort, Goal, Result, Row
from harness.runs.block_watch import INTERVAL_S, SHORT_BLOCK_INTERVAL_S, TelemetryStream
from harness.targets.client import AgentClient
from harness.targets.values import SessionChoice

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "harness/demo/digits.onnx"
SQUEEZENET = REPOSITORY.parent / "shared/data/models/squeezenet1.1.onnx"
#: As runs sample beside blocks of a second, and the fastest that an agent does.
INTERVALS_S = (INTERVAL_S, SHORT_BLOCK_INTERVAL_S)
#: The cost is far below a block's own scatter: twice the usual pairs halve the interval by 0.7.
_PAIRS_FACTOR = 2
#: The kernel counts a process's time in hundredths of a second: so many blocks' worth, or the figure is a few ticks.
_WATCH_BLOCKS = 10
GOAL = Goal("ratio", most=1.01)
#: What a run takes from a board whose every core its network keeps busy.
PROCESSOR_GOAL = Goal("ours", most=1.0)


def run(effort: Effort) -> Result:
    """Interleaved blocks, ABBA, for each network and rate, one thread, telemetry of this machine."""
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
        rows += _processor_time(connection, agent.pid, effort)
    return Result(tuple(rows), skipped)


def _compare(agent: AgentClient, model: Path, effort: Effort) -> Iterator[Row]:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    agent.ship(model, digest)
    network = agent.prepare(digest, options=SessionChoice(intra_op_threads=1))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    agent.load_inputs(network.network_id, inputs(session))
    del session

    def block(interval_s: float | None) -> tuple[float, float]:
        """Median and mean in ms; watched with that interval, or not."""
        stream = TelemetryStream(agent, interval_s) if interval_s is not None else None
        if stream is not None:
            stream.start()
            stream.after(0.0)  # the board's tools have started, and the first sample was taken
        timed = agent.time_block(network.network_id, min_iterations=LEAST_ITERATIONS, min_duration_s=effort.block_s)
        if stream is not None:
            stream.stop()
        return statistics.median(timed.latency_ns) / 1e6, statistics.fmean(timed.latency_ns) / 1e6

    block(None)
    # The rates take turns too, so that a load that comes and goes falls on both.
    pairs: dict[float, list[tuple[tuple[float, float], tuple[float, float]]]] = {one: [] for one in INTERVALS_S}
    for number in range(_PAIRS_FACTOR * effort.repetitions):
        for interval_s in INTERVALS_S:
            if number % 2 == 0:
                watched, alone = block(interval_s), block(None)
            else:
                alone, watched = block(None), block(interval_s)
            pairs[interval_s].append((watched, alone))
    agent.unload(network.network_id)
    for interval_s, taken in pairs.items():
        for at, name in enumerate(("p50", "mean")):
            yield Row(
                figure=f"{name} latency of a block watched at {1 / interval_s:g} Hz, {model.stem}, 1 thread",
                unit="ms",
                ours=tuple(watched[at] for watched, _ in taken),
                peer_name="the same block unwatched",
                peer=tuple(alone[at] for _, alone in taken),
                goal=GOAL,
            )


def _processor_time(agent: AgentClient, pid: int, effort: Effort) -> Iterator[Row]:
    """Of the agent's process, threads and gRPC included, while nothing but telemetry runs: no noise of others in it."""
    process = psutil.Process(pid)

    def used_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    for interval_s in INTERVALS_S:
        shares = []
        for _ in range(max(effort.repetitions // 3, 1)):
            stream = TelemetryStream(agent, interval_s)
            stream.start()
            stream.after(0.0)
            began, before = time.perf_counter(), used_s()
            time.sleep(_WATCH_BLOCKS * effort.block_s)
            shares.append(100 * (used_s() - before) / (time.perf_counter() - began))
            stream.stop()
        yield Row(
            figure=f"processor time of an agent that samples at {1 / interval_s:g} Hz",
            unit="% of a core",
            ours=tuple(shares),
            goal=PROCESSOR_GOAL if interval_s == INTERVAL_S else None,
        )
