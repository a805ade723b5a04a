"""What the networks put out on one board, chunk by chunk: the ground that accuracy stands on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import BadResult
from harness.record.figure import ARMS, Network
from harness.record.networks import OutputsRecord
from harness.runs.inference import infer_chunk, infer_sequence
from harness.runs.interrupt import Interrupted
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan
from harness.runs.samples import Array, SampleReader
from harness.runs.target_log import TargetLog
from harness.targets.client import AgentClient
from harness.targets.values import PreparedNetwork


@dataclass(frozen=True)
class TargetOutputs:
    """Runs every sample through both networks of one target.

    Args:
        plan: of the run.
        log: of the target.
        reader: of the samples, shared by all targets.
        batch: samples per inference; None: free.
        stop: set when the run shall end.
    """

    plan: Plan
    log: TargetLog
    reader: SampleReader
    batch: int | None
    stop: threading.Event

    def infer(self, client: AgentClient, prepared: Mapping[Network, PreparedNetwork]) -> None:
        """Do the chunks that are missing; each is kept as soon as it is whole.

        Raises:
            BadResult: a NaN or an infinity among the outputs.
            BoardError: the board fails.
            Interrupted: `stop` was set.
        """
        outputs = OutputStore(self.log.store, self.plan.run_id, self.log.name, self.plan.out)
        done = {network: outputs.done(network) for network in ARMS}
        total = len(self.reader.indices) * len(ARMS)
        finished = sum(self._chunk_size(chunk) for chunks in done.values() for chunk in chunks)
        for chunk in self.reader.chunks:
            for network in ARMS:
                if chunk in done[network]:
                    continue
                if self.stop.is_set():
                    raise Interrupted(self.plan.run_id)
                batch = self.reader.chunk(chunk)
                values = self._run_chunk(client, prepared[network], batch.inputs)
                self._check_finite(values, batch.ids, network)
                outputs.add(network, chunk, values)
                finished += len(batch.ids)
                self.log.progress("infer", finished, total)
        digests = [(network, outputs.digest(network, self.reader.chunks)) for network in ARMS]
        samples = len(self.reader.indices)
        self.log.save(outputs=tuple(OutputsRecord(*each, samples, self.log.record.source) for each in digests))

    def _run_chunk(
        self, client: AgentClient, network: PreparedNetwork, inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        state = self.plan.job.state
        if not state:
            return infer_chunk(client, network, inputs, self.batch)
        outputs, _ = infer_sequence(client, network, inputs, state, self.plan.zero_state())
        return outputs

    def _check_finite(self, values: Mapping[str, Array], ids: tuple[str, ...], network: Network) -> None:
        for name, array in values.items():
            if array.dtype.kind != "f":
                continue
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                sample = ids[int(np.argmax(bad))] if len(array) == len(ids) else "?"
                message = (
                    f"{network.value}: output '{name}' holds NaN or infinity for sample {sample}; "
                    "check the preprocessing and the ranges with `quantrig inspect`"
                )
                raise BadResult(self.log.name, message)

    def _chunk_size(self, chunk: int) -> int:
        start = chunk * self.reader.chunk_samples
        return min(self.reader.chunk_samples, len(self.reader.indices) - start)
