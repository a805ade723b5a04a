"""The same network as both arms on this machine: what timing makes of no difference."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import onnxruntime

from benchmarks.agent import client, running_agent
from benchmarks.bare_loop import inputs
from harness.record.figure import Network
from harness.record.timing import BlockRecord
from harness.runs.profile import Profile
from harness.runs.timing import Timing
from harness.targets.client import AgentClient
from harness.targets.values import SessionChoice

DIGITS = Path(__file__).parents[2] / "harness/demo/digits.onnx"

#: One run of both arms: a profile → its blocks.
Repeat = Callable[[Profile], list[BlockRecord]]


@contextmanager
def both_arms(*, one_process: bool = False) -> Iterator[Repeat]:
    """A function that loads the shipped network twice, warms both up and times them as a run would.

    Args:
        one_process: both arms are the same file, which the agent loads once: what an A/A job does. Else each is a file
            of its own (the doc string differs) in a process of its own, as the two networks of a run are: where a
            process happens to lie in memory is part of what a run cannot know.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        agent = stack.enter_context(running_agent(folder, tls=False))
        connection = stack.enter_context(client(agent.address, None))
        arms = (Network.FLOAT, Network.QUANTIZED)
        digests = {arm: _ship(connection, arms[0] if one_process else arm, folder) for arm in arms}
        feed = inputs(onnxruntime.InferenceSession(DIGITS, providers=["CPUExecutionProvider"]))

        def repeat(profile: Profile) -> list[BlockRecord]:
            options = SessionChoice(intra_op_threads=1)
            ids = {arm: connection.prepare(digest, options=options).network_id for arm, digest in digests.items()}
            stop = threading.Event()
            timing = Timing(connection, ids, profile, stop, keep=lambda _: None, progress=lambda *_: None)
            try:
                for arm, network_id in ids.items():
                    connection.load_inputs(network_id, feed)
                    timing.warm_up(arm)
                return timing.run([], lambda: None)
            finally:
                for network_id in set(ids.values()):
                    connection.unload(network_id)

        yield repeat


def _ship(connection: AgentClient, network: Network, folder: Path) -> str:
    model = onnx.load(DIGITS)
    model.doc_string = f"arm {network.name}"
    path = folder / f"{network.name}.onnx"
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    connection.ship(path, digest)
    return digest
