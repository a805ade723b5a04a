"""The agent's timed blocks against a bare ONNX Runtime loop: what the protocol and the child process add to a p50."""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

from benchmarks.agent import client, running_agent
from benchmarks.bare_loop import LEAST_ITERATIONS, inputs
from benchmarks.figures import Effort, Goal, Result, Row
from harness.targets.client import AgentClient
from harness.targets.values import SessionChoice

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "harness/demo/digits.onnx"
SQUEEZENET = REPOSITORY.parent / "shared/data/models/squeezenet1.1.onnx"
GOAL = Goal("ratio", most=1.02)


def run(effort: Effort) -> Result:
    """Interleaved blocks, ABBA, for each network and number of threads."""
    cores = len(os.sched_getaffinity(0))
    cases = [(DIGITS, threads) for threads in sorted({1, cores})]
    skipped: tuple[str, ...] = ()
    if SQUEEZENET.exists():
        cases.append((SQUEEZENET, 1))
    else:
        skipped = ("SqueezeNet 1.1: its file is not beside the repository",)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(Path(folder), tls=False) as agent,
        client(agent.address, None) as connection,
    ):
        rows = tuple(_compare(connection, model, threads, effort) for model, threads in cases)
    return Result(rows, skipped)


def _compare(agent: AgentClient, model: Path, threads: int, effort: Effort) -> Row:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_agent_blocks(agent, model, threads, effort.block_s))
        bare = stack.enter_context(_bare_blocks(model, threads, effort.block_s))
        for side in (ours, bare):  # both are steady before anything counts
            side()
        pairs = []
        for number in range(effort.repetitions):
            first, second = (ours, bare) if number % 2 == 0 else (bare, ours)
            values = (first(), second())
            pairs.append(values if number % 2 == 0 else values[::-1])
    return Row(
        figure=f"latency p50 of an on-board block, {model.stem}, {threads} thread{'s' if threads > 1 else ''}",
        unit="ms",
        ours=tuple(mine for mine, _ in pairs),
        peer_name="bare ONNX Runtime loop",
        peer=tuple(theirs for _, theirs in pairs),
        goal=GOAL,
    )


@contextmanager
def _agent_blocks(agent: AgentClient, model: Path, threads: int, block_s: float) -> Iterator[Callable[[], float]]:
    """A function that runs one block on the agent and returns its median in ms."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    agent.ship(model, digest)
    network = agent.prepare(digest, options=SessionChoice(intra_op_threads=threads))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    agent.load_inputs(network.network_id, inputs(session))
    del session

    def block() -> float:
        timed = agent.time_block(network.network_id, min_iterations=LEAST_ITERATIONS, min_duration_s=block_s)
        return statistics.median(timed.latency_ns) / 1e6

    yield block
    agent.unload(network.network_id)


@contextmanager
def _bare_blocks(model: Path, threads: int, block_s: float) -> Iterator[Callable[[], float]]:
    """The same in a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", str(model), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout
        if answers.readline().strip() != "ready":
            raise RuntimeError("the bare loop did not start")

        def block() -> float:
            asked.write(f"{block_s}\n")
            asked.flush()
            return int(answers.readline()) / 1e6

        try:
            yield block
        finally:
            asked.close()
