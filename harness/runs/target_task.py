"""One target's part of a run: connect, ship, load, infer, time. Every finished piece goes into the journal at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from harness.data.batch import padded
from harness.errors import BadResult, BoardError, Refused, Throttled
from harness.judge.clocks import describe_clock
from harness.judge.figure import Network, Source
from harness.judge.throttling import throttled
from harness.record import (
    BlockRecord,
    DesignRecord,
    Loading,
    OutputsRecord,
    ProviderShare,
    RecoveryStep,
    SettingRecord,
    Shipment,
    TargetRecord,
)
from harness.runs.block_watch import BlockWatch, idle_for, interval_for
from harness.runs.board import arithmetic_note, board_key, check_identity, must_not_saturate, runtime_for
from harness.runs.board_state import board_as_asked
from harness.runs.budget import Budget
from harness.runs.inference import infer_chunk, infer_sequence
from harness.runs.interrupt import Interrupted
from harness.runs.locks import board_alone, machine_alone, machine_shared
from harness.runs.networks import NetworkFile
from harness.runs.observer import Observer
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan
from harness.runs.programming import outcome_of, program
from harness.runs.rescue import Rescue, watched_console
from harness.runs.samples import Array, SampleReader
from harness.runs.standin import StandIns
from harness.runs.timing import Timing
from harness.store import Store
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.health import second_choice, skew
from harness.targets.qemu_system.use import reachable
from harness.targets.quarantine import must_be_free
from harness.targets.target import Target
from harness.targets.values import BoardInfo, PreparedNetwork, SessionChoice

ARMS = (Network.FLOAT, Network.QUANTIZED)

#: Providers that run on the processor's cores: its clock is the one to watch.
_CPU_PROVIDERS = frozenset({"CPUExecutionProvider", "XnnpackExecutionProvider"})


@dataclass
class TargetTask:
    """Runs on a thread of its own; several of them share the reader, the journal and the observer."""

    plan: Plan
    target: Target
    networks: Mapping[Network, NetworkFile]
    standins: StandIns
    record: TargetRecord
    reader: SampleReader
    store: Store
    observer: Observer
    stop: threading.Event
    client: AgentClient | None = field(default=None, init=False)

    def run(self) -> TargetRecord:
        """Do what is missing of this target's part and return its record.

        A failing board ends in the record (`status`, `error`), not in an exception; the others go on.

        Raises:
            Interrupted: the user stopped the run.
            UserError: bad input that concerns all targets.
        """
        try:
            with board_alone(
                board_key(self.target, self.plan.lab.path),
                self.stop,
                lambda: self._say("waiting: another run uses this board"),
                purpose=f"run {self.plan.run_id}",
            ):
                must_be_free(self.target)
                self._progress("connect", 0, None)
                with reachable(self.target) as self.target:  # the same board, also when it has to be brought back
                    self._run_and_rescue()
            if (why := throttled(self.record.blocks)) is not None:
                raise Throttled(self.target.name, why)
            self._save(status="done", error=None)
        except BoardError as error:
            if self.stop.is_set():
                self._save(status="pending", error=None)
                raise Interrupted(self.plan.run_id) from error
            self._save(status=error.status, error=error.message)
        except Interrupted:
            self._save(status="pending", error=None)
            raise Interrupted(self.plan.run_id) from None
        finally:
            self.client = None
        self.observer.finished(self.target.name, self.record.status)
        return self.record

    def cancel(self) -> None:
        """Abort the call in flight, from another thread; `stop` was set before."""
        client = self.client
        if client is not None:
            client.cancel()

    def _run_and_rescue(self) -> None:
        """Do the target's part; where its board is lost on the way and can be brought back, go on from there."""
        logs = self.plan.out / "logs"
        with watched_console(self.target, logs, self.plan.run_id, self._say) as console:
            rescue = Rescue(self.target, logs, console, self.stop, self._say, self._keep_step)
            while True:
                try:
                    self._run()
                    break
                except BoardError as error:
                    rescue.after(error, reached=self.client is not None)
                finally:
                    if notes := rescue.notes():
                        self._save(notes=tuple(dict.fromkeys((*self.record.notes, *notes))))

    def _keep_step(self, step: RecoveryStep) -> None:
        self._save(recovery=(*self.record.recovery, step))

    # -- the phases ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._progress("connect", 0, None)
        with ExitStack() as stack:
            client = stack.enter_context(connect(self.target, work_dir=self.plan.out / "logs", stop=self.stop))
            self.client = client
            info = client.describe()
            check_identity(self.target, info)
            source = Source.EMULATED if info.emulated else self.record.source
            self._save(description=info.as_json(), notes=self._notes(info), source=source)
            if info.emulated:
                self._stand_in()
            with machine_shared(info.machine_id, self.stop):
                for network in ARMS:
                    self._ship(client, network)
                for design in self.record.designs:
                    self._program(client, design)
                prepared = {network: self._prepare(client, network, info) for network in ARMS}
                for loaded in prepared.values():
                    stack.callback(self._unload, client, loaded.network_id)
                self._infer(client, prepared)
            if self.target.timed and not info.emulated:
                self._progress("wait for a quiet machine", 0, None)
                with (
                    machine_alone(info.machine_id, self.stop, lambda: self._say("timing waits for a quiet machine")),
                    board_as_asked(client, self.target, info, self._keep_settings),
                ):
                    self._time(client, {network: loaded.network_id for network, loaded in prepared.items()})

    def _keep_settings(self, settings: tuple[SettingRecord, ...], notes: tuple[str, ...]) -> None:
        self._save(settings=settings, notes=tuple(dict.fromkeys((*self.record.notes, *notes))))
        for note in notes:
            self._say(note)

    def _stand_in(self) -> None:
        """Take the board's own arithmetic for the second arm, and what is known of the board without it."""
        standin = self.standins.of(self.target, self.networks[Network.QUANTIZED], self.record)
        self.networks = {**self.networks, Network.QUANTIZED: standin.file}
        notes = dict.fromkeys((*self.record.notes, *standin.notes))
        self._save(lowered=standin.lowered, designs=standin.designs, notes=tuple(notes))
        for design in standin.designs:
            for line in design.compile_log:
                self.observer.log(self.target.name, line)

    def _program(self, client: AgentClient, design: DesignRecord) -> None:
        if not design.digest:
            return
        try:
            programming = program(client, design, self.networks[design.network].digest)
        except Refused as error:  # an agent of an older version: nothing else depends on it
            self._say(f"{design.network.value}: not programmed: {error.message}")
            return
        self._say(f"{design.network.value} on {design.design}: {outcome_of(programming)}")
        others = tuple(old for old in self.record.programming if old.network != design.network)
        self._save(programming=(*others, programming))

    def _ship(self, client: AgentClient, network: Network) -> None:
        file = self.networks[network]
        shipped = client.ship(
            file.path, file.digest, lambda done, total: self._progress(f"ship {network.value}", done, total)
        )
        if shipped.skipped:
            self._say(f"{network.value}: already on the board, skipped")
        shipment = Shipment(network, file.digest, shipped.size_bytes, shipped.sent_bytes, shipped.skipped)
        others = tuple(s for s in self.record.shipments if s.network != network)
        self._save(shipments=(*others, shipment))

    def _prepare(self, client: AgentClient, network: Network, info: BoardInfo) -> PreparedNetwork:
        self._progress(f"load {network.value}", 0, None)
        file = self.networks[network]
        prepared = client.prepare(
            file.digest,
            options=SessionChoice(
                runtime=runtime_for(self.target, network),
                intra_op_threads=self.target.threads or 0,
                disabled_optimizers=file.disabled_optimizers,
                precise_x86_int8=network is Network.QUANTIZED and must_not_saturate(info),
            ),
            on_phase=lambda name, _ms: self._progress(f"load {network.value}: {name}", 0, None),
        )
        loading = Loading(
            network,
            prepared.start_ms,
            prepared.check_ms,
            prepared.load_ms,
            prepared.compile_ms,
            prepared.already_loaded,
            prepared.runtime,
            prepared.runtime_version,
            prepared.providers,
            assigned=tuple(ProviderShare(a.provider, a.count, dict(a.operators), a.nodes) for a in prepared.assigned),
            settings=dict(prepared.settings),
        )
        before = next((old for old in self.record.loadings if old.network == network), None)
        if before is not None and before.warm_up_s is not None:
            loading = replace(
                loading,
                warm_up_iterations=before.warm_up_iterations,
                warm_up_s=before.warm_up_s,
                steady=before.steady,
                first_ms=before.first_ms,
            )
        self._save_loading(loading)
        return prepared

    def _infer(self, client: AgentClient, prepared: Mapping[Network, PreparedNetwork]) -> None:
        outputs = self._outputs()
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
                self._progress("infer", finished, total)
        digests = [(network, outputs.digest(network, self.reader.chunks)) for network in ARMS]
        samples = len(self.reader.indices)
        self._save(outputs=tuple(OutputsRecord(*each, samples, self.record.source) for each in digests))

    def _run_chunk(
        self, client: AgentClient, network: PreparedNetwork, inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        state = self.plan.job.state
        if not state:
            return infer_chunk(client, network, inputs, self._batch)
        outputs, _ = infer_sequence(client, network, inputs, state, self.plan.zero_state())
        return outputs

    def _time(self, client: AgentClient, ids: Mapping[Network, str]) -> None:
        finished = self._whole_pairs()
        size = self._batch or 1
        sample = self.plan.data.read(self.plan.samples[:size]).inputs
        inputs = padded(sample, size) | self.plan.zero_state()
        with self._watch(client) as watch:
            self._idle(watch, "before")
            blocks = self._timed(client, ids, inputs, finished, watch)
            self._idle(watch, "after")
        told = (describe_clock(blocks), f"rested {watch.rested_s:.3g} s to cool down" if watch.rested_s else "")
        notes = dict.fromkeys((*self.record.notes, *(note for note in told if note)))
        self._save(blocks=tuple(blocks), notes=tuple(notes))

    def _timed(
        self,
        client: AgentClient,
        ids: Mapping[Network, str],
        inputs: Mapping[str, Array],
        finished: list[BlockRecord],
        watch: BlockWatch,
    ) -> list[BlockRecord]:
        journal, name = self.store, self.target.name
        budget = Budget.after(self.plan.budget_s, finished)
        timing = Timing(
            client,
            ids,
            budget.for_warm_up(self.plan.profile),
            self.stop,
            keep=lambda block: journal.add_block(self.plan.run_id, name, block),
            progress=lambda pairs, most: self._progress("time", pairs, most),
            watch=watch,
        )
        warmed = []
        for network in ARMS:
            self._progress(f"warm up {network.value}", 0, None)
            client.load_inputs(ids[network], inputs)
            warm = timing.warm_up(network)
            warmed.append(warm)
            loading = next(old for old in self.record.loadings if old.network == network)
            self._save_loading(
                replace(
                    loading,
                    warm_up_iterations=warm.iterations,
                    warm_up_s=warm.duration_s,
                    steady=warm.steady,
                    first_ms=warm.first_ms,
                )
            )
        self._save(steady_clocks=watch.steady_clocks)
        self._say_not_warm()
        profile = budget.for_blocks(timing.profile, warmed)
        rule = self.record.stopping or profile.rule(self.plan.budget_s)  # an earlier try's, when it has one
        self._save(stopping=rule)
        return replace(timing, profile=profile, rule=rule, deadline=budget.deadline).run(finished, lambda: None)

    def _watch(self, client: AgentClient) -> BlockWatch:
        """Telemetry beside the blocks."""
        on_cpu = {one.network: set(one.providers) <= _CPU_PROVIDERS for one in self.record.loadings}
        return BlockWatch(
            client,
            on_cpu,
            self.stop,
            interval_s=interval_for(self.plan.profile.block_s),
            say=self._say,
            keep=lambda points: self._save(telemetry=(*self.record.telemetry, *points)),
        )

    def _idle(self, watch: BlockWatch, when: str) -> None:
        """What the board draws at rest, where it tells."""
        self._progress(f"idle {when} timing", 0, None)
        if (window := watch.idle(when, idle_for(self.plan.profile.block_s))) is not None:
            self._save(idle=(*self.record.idle, window))

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _whole_pairs(self) -> list[BlockRecord]:
        """The blocks of an earlier try; half a pair is dropped, since its other half would lie elsewhere in time."""
        blocks = self.store.blocks(self.plan.run_id, self.target.name)
        seen: dict[int, int] = {}
        for block in blocks:
            seen[block.pair] = seen.get(block.pair, 0) + 1
        halves = [pair for pair, count in seen.items() if count != len(ARMS)]
        self.store.drop_blocks(self.plan.run_id, self.target.name, halves)
        return [block for block in blocks if block.pair not in halves]

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
                raise BadResult(self.target.name, message)

    def _unload(self, client: AgentClient, network_id: str) -> None:
        try:
            client.unload(network_id)
        except (BoardError, Interrupted):
            return  # the board is gone: nothing is loaded there any more

    def _outputs(self) -> OutputStore:
        return OutputStore(self.store, self.plan.run_id, self.target.name, self.plan.out)

    def _say_not_warm(self) -> None:
        """A network that never became steady is told where every reader looks, not in a row's note alone."""
        from harness.judge.timing import not_warm  # half a second of scipy, loaded while the boards work

        kept = tuple(note for note in self.record.notes if not note.startswith("not-warm"))
        cold = not_warm(self.record.loadings, *ARMS)
        self._save(notes=(*kept, cold) if cold else kept)

    @property
    def _batch(self) -> int | None:
        """Samples per inference: this setting's, else the job's or what the network insists on."""
        return self.target.batch or self.plan.fixed_batch

    def _chunk_size(self, chunk: int) -> int:
        start = chunk * self.reader.chunk_samples
        return min(self.reader.chunk_samples, len(self.reader.indices) - start)

    def _notes(self, info: BoardInfo) -> tuple[str, ...]:
        notes = []
        if info.emulated:
            notes.append(f"emulated on {info.cpu_model or info.architecture}: outputs and accuracy only, never time")
        elif info.board != self.target.board:
            notes.append(
                f"targets.yaml says {self.target.board}, the agent says {info.board} ({info.architecture}): start it "
                f"with --board {self.target.board} if it is one"
            )
        if note := arithmetic_note(info, self.target.environment):
            notes.append(note)
        if not self.target.runtime and (instead := second_choice(info)):
            notes.append(instead)
        if different := skew(info):
            notes.append(f"{different}: both work together, figures of one version are compared more easily")
        return tuple(notes)

    def _save(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        self.store.save_target(self.plan.run_id, self.record)

    def _save_loading(self, loading: Loading) -> None:
        others = tuple(old for old in self.record.loadings if old.network != loading.network)
        self._save(loadings=(*others, loading))

    def _progress(self, phase: str, done: float, total: float | None) -> None:
        self.observer.progress(self.target.name, phase, done, total)

    def _say(self, text: str) -> None:
        self.observer.message(self.target.name, text)
