"""One board for a sweep over many variants of a network: runs them, and times one against another."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from onnx import ModelProto

from harness.errors import BadResult, BoardError, UserError
from harness.quantize import QuantizedModel
from harness.quantize.feed import Batch
from harness.quantize.fidelity import Arrays
from harness.quantize.graph import sha256_of
from harness.quantize.preparation import infer_types
from harness.quantize.runtime import with_outputs
from harness.quantize.writing import write_model
from harness.record.figure import Network
from harness.record.timing import BlockRecord
from harness.runs.board import board_key, check_identity, must_not_saturate
from harness.runs.locks import board_alone, machine_alone, machine_shared
from harness.runs.profile import QUICK, Profile
from harness.runs.timing import Timing
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.target import Target
from harness.targets.values import BoardInfo, SessionChoice


@dataclass
class Bench:
    """A connected board; made by `open_bench`. It is a `Runner` and a `NetworkTimer` of the quantizer's sweeps.

    Args:
        target: which board.
        client: to its agent.
        info: what it says of itself.
        folder: for networks on their way.
        sample: what networks are timed on; the first pass of the held-back data.
        profile: how long they are timed.
        stop: ends waiting.
    """

    target: Target
    client: AgentClient
    info: BoardInfo
    folder: Path
    sample: Batch | None = None
    profile: Profile = QUICK
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def identity(self) -> str:
        """What results depend on: the board and its runtimes; keys a journal."""
        runtimes = ", ".join(f"{runtime.name} {runtime.version}" for runtime in self.info.runtimes)
        return f"{self.target.name}, {self.info.board}, {self.info.machine_id or self.info.hostname}, {runtimes}"

    @property
    def timed(self) -> bool:
        """Whether its times mean anything: those of a stand-in do not."""
        return self.target.timed and not self.info.emulated

    def __call__(
        self, model: ModelProto, names: Sequence[str], feeds: Sequence[Batch], disabled: Sequence[str], what: str
    ) -> Iterable[Arrays]:
        """Run a network over feeds; the board forgets it afterwards."""
        path = self.folder / "variant.onnx"
        # The agent wants to know the types of all outputs, also of those that were inner tensors.
        write_model(with_outputs(infer_types(model), names, only=True), path)
        with machine_shared(self.info.machine_id, self.stop), self._loaded(path, disabled) as network:
            answers = list(self.client.infer(network, feeds))
        found = [[np.asarray(answer[name]) for name in names] for answer in answers]
        if not all(np.isfinite(value).all() for values in found for value in values if value.dtype.kind == "f"):
            message = f"{what}: an output holds NaN or infinity; check the ranges with `quantrig inspect`"
            raise BadResult(self.target.name, message)
        return found

    def cost_ms(self, candidate: QuantizedModel, all_int8: QuantizedModel) -> float:
        """How much longer the candidate takes per inference, ms: medians of blocks in ABBA order, as in a run.

        Raises:
            UserError: a stand-in, or nothing was given to run on.
            BoardError: the board failed.
        """
        if not self.timed or self.sample is None:
            msg = f"{self.target.name}: has no times of its own (a stand-in); name a real board"
            raise UserError(msg)
        with ExitStack() as stack:
            both = {Network.FLOAT: candidate, Network.QUANTIZED: all_int8}
            with machine_shared(self.info.machine_id, self.stop):
                ids = {
                    role: stack.enter_context(self._loaded(made.path, made.disabled_optimizers, keep=made is all_int8))
                    for role, made in both.items()
                }
            stack.enter_context(machine_alone(self.info.machine_id, self.stop))
            timing = Timing(self.client, ids, self.profile, self.stop, keep=lambda _: None, progress=lambda *_: None)
            for role, network in ids.items():
                self.client.load_inputs(network, self.sample)
                timing.warm_up(role)
            blocks = timing.run([], lambda: None)
        return _median_ms(blocks, Network.FLOAT) - _median_ms(blocks, Network.QUANTIZED)

    @contextmanager
    def _loaded(self, path: Path, disabled: Sequence[str], *, keep: bool = False) -> Iterator[str]:
        """The id of a network that is shipped and loaded; `keep`: its file stays on the board for the next time."""
        digest = sha256_of(path)
        self.client.ship(path, digest)
        options = SessionChoice(
            runtime=self.target.runtime or "",
            intra_op_threads=self.target.threads or 0,
            disabled_optimizers=tuple(disabled),
            precise_x86_int8=must_not_saturate(self.info),
        )
        prepared = self.client.prepare(digest, options=options)
        try:
            yield prepared.network_id
        finally:
            with suppress(BoardError):  # a board that is gone holds nothing any more
                self.client.unload(prepared.network_id)
                if not keep:
                    self.client.remove(digest)


def _median_ms(blocks: Sequence[BlockRecord], network: Network) -> float:
    return median(median(block.latency_ns) for block in blocks if block.network is network) / 1e6


@contextmanager
def open_bench(target: Target, lab: Path, *, sample: Batch | None = None, profile: Profile = QUICK) -> Iterator[Bench]:
    """Connect to a board and hold it alone until the end.

    Args:
        target: which.
        lab: the file it stands in.
        sample: one pass of inputs, for timing.
        profile: how long networks are timed.

    Raises:
        BoardError: it cannot be reached, or is another machine than the lab file says.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantrig-bench-")))
        stack.enter_context(board_alone(board_key(target, lab), stop))
        client = stack.enter_context(connect(target, work_dir=folder / "logs", stop=stop))
        info = client.describe()
        check_identity(target, info)
        yield Bench(target, client, info, folder, sample, profile, stop)
