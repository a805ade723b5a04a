"""One target's part of a run: connect, ship, load, infer, time; a lost board is brought back and goes on from there."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from harness.errors import BoardError, Refused, Throttled
from harness.judge.throttling import throttled
from harness.record.designs import DesignRecord
from harness.record.figure import ARMS, Network, Source
from harness.record.networks import Loading, ProviderShare, Shipment
from harness.record.target import RecoveryStep, SettingRecord, TargetRecord
from harness.runs.board import arithmetic_note, board_key, check_identity, must_not_saturate, runtime_for
from harness.runs.board_state import board_as_asked
from harness.runs.interrupt import Interrupted
from harness.runs.locks import board_alone, machine_alone, machine_shared
from harness.runs.networks import NetworkFile
from harness.runs.plan import Plan
from harness.runs.programming import outcome_of, program
from harness.runs.rescue import Rescue, watched_console
from harness.runs.samples import SampleReader
from harness.runs.standin import StandIns
from harness.runs.target_log import TargetLog
from harness.runs.target_outputs import TargetOutputs
from harness.runs.target_timing import TargetTiming
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.health import second_choice, skew
from harness.targets.qemu_system.use import reachable
from harness.targets.quarantine import must_be_free
from harness.targets.target import Target
from harness.targets.values import BoardInfo, PreparedNetwork, SessionChoice


@dataclass
class TargetTask:
    """Runs on a thread of its own; several of them share the reader, the journal and the observer."""

    plan: Plan
    target: Target
    networks: Mapping[Network, NetworkFile]
    standins: StandIns
    reader: SampleReader
    log: TargetLog
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
                lambda: self.log.say("waiting: another run uses this board"),
                purpose=f"run {self.plan.run_id}",
            ):
                must_be_free(self.target)
                self.log.progress("connect", 0, None)
                with reachable(self.target) as self.target:  # the same board, also when it has to be brought back
                    self._run_and_rescue()
            if (why := throttled(self.log.record.blocks)) is not None:
                raise Throttled(self.target.name, why)
            self.log.save(status="done", error=None)
        except BoardError as error:
            if self.stop.is_set():
                self.log.save(status="pending", error=None)
                raise Interrupted(self.plan.run_id) from error
            self.log.save(status=error.status, error=error.message)
        except Interrupted:
            self.log.save(status="pending", error=None)
            raise Interrupted(self.plan.run_id) from None
        finally:
            self.client = None
        self.log.observer.finished(self.target.name, self.log.record.status)
        return self.log.record

    def cancel(self) -> None:
        """Abort the call in flight, from another thread; `stop` was set before."""
        client = self.client
        if client is not None:
            client.cancel()

    def _run_and_rescue(self) -> None:
        """Do the target's part; where its board is lost on the way and can be brought back, go on from there."""
        logs = self.plan.out / "logs"
        with watched_console(self.target, logs, self.plan.run_id, self.log.say) as console:
            rescue = Rescue(self.target, logs, console, self.stop, self.log.say, self._keep_step)
            while True:
                try:
                    self._run()
                    break
                except BoardError as error:
                    rescue.after(error, reached=self.client is not None)
                finally:
                    if notes := rescue.notes():
                        self.log.note(*notes)

    def _keep_step(self, step: RecoveryStep) -> None:
        self.log.save(recovery=(*self.log.record.recovery, step))

    # -- the phases ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.log.progress("connect", 0, None)
        batch = self.target.batch or self.plan.fixed_batch  # samples per inference: this setting's, else the job's
        with ExitStack() as stack:
            client = stack.enter_context(connect(self.target, work_dir=self.plan.out / "logs", stop=self.stop))
            self.client = client
            info = client.describe()
            check_identity(self.target, info)
            source = Source.EMULATED if info.emulated else self.log.record.source
            self.log.save(description=info.as_json(), notes=self._notes(info), source=source)
            if info.emulated:
                self._stand_in()
            with machine_shared(info.machine_id, self.stop):
                for network in ARMS:
                    self._ship(client, network)
                for design in self.log.record.designs:
                    self._program(client, design)
                prepared = {network: self._prepare(client, network, info) for network in ARMS}
                for loaded in prepared.values():
                    stack.callback(self._unload, client, loaded.network_id)
                TargetOutputs(self.plan, self.log, self.reader, batch, self.stop).infer(client, prepared)
            if self.target.timed and not info.emulated:
                self.log.progress("wait for a quiet machine", 0, None)
                with (
                    machine_alone(info.machine_id, self.stop, lambda: self.log.say("timing waits for a quiet machine")),
                    board_as_asked(client, self.target, info, self._keep_settings),
                ):
                    ids = {network: loaded.network_id for network, loaded in prepared.items()}
                    TargetTiming(self.plan, self.log, batch, self.stop).time(client, ids)

    def _keep_settings(self, settings: tuple[SettingRecord, ...], notes: tuple[str, ...]) -> None:
        self.log.save(settings=settings)
        self.log.note(*notes)
        for note in notes:
            self.log.say(note)

    def _stand_in(self) -> None:
        """Take the board's own arithmetic for the second arm, and what is known of the board without it."""
        standin = self.standins.of(self.target, self.networks[Network.QUANTIZED], self.log.record)
        self.networks = {**self.networks, Network.QUANTIZED: standin.file}
        self.log.save(lowered=standin.lowered, designs=standin.designs)
        self.log.note(*standin.notes)
        for design in standin.designs:
            for line in design.compile_log:
                self.log.observer.log(self.target.name, line)

    def _program(self, client: AgentClient, design: DesignRecord) -> None:
        if not design.digest:
            return
        try:
            programming = program(client, design, self.networks[design.network].digest)
        except Refused as error:  # an agent of an older version: nothing else depends on it
            self.log.say(f"{design.network.value}: not programmed: {error.message}")
            return
        self.log.say(f"{design.network.value} on {design.design}: {outcome_of(programming)}")
        others = tuple(old for old in self.log.record.programming if old.network != design.network)
        self.log.save(programming=(*others, programming))

    def _ship(self, client: AgentClient, network: Network) -> None:
        file = self.networks[network]
        shipped = client.ship(
            file.path, file.digest, lambda done, total: self.log.progress(f"ship {network.value}", done, total)
        )
        if shipped.skipped:
            self.log.say(f"{network.value}: already on the board, skipped")
        shipment = Shipment(network, file.digest, shipped.size_bytes, shipped.sent_bytes, shipped.skipped)
        others = tuple(s for s in self.log.record.shipments if s.network != network)
        self.log.save(shipments=(*others, shipment))

    def _prepare(self, client: AgentClient, network: Network, info: BoardInfo) -> PreparedNetwork:
        self.log.progress(f"load {network.value}", 0, None)
        file = self.networks[network]
        prepared = client.prepare(
            file.digest,
            options=SessionChoice(
                runtime=runtime_for(self.target, network),
                intra_op_threads=self.target.threads or 0,
                disabled_optimizers=file.disabled_optimizers,
                precise_x86_int8=network is Network.QUANTIZED and must_not_saturate(info),
            ),
            on_phase=lambda name, _ms: self.log.progress(f"load {network.value}: {name}", 0, None),
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
        before = next((old for old in self.log.record.loadings if old.network == network), None)
        if before is not None and before.warm_up_s is not None:
            loading = replace(
                loading,
                warm_up_iterations=before.warm_up_iterations,
                warm_up_s=before.warm_up_s,
                steady=before.steady,
                first_ms=before.first_ms,
            )
        self.log.save_loading(loading)
        return prepared

    def _unload(self, client: AgentClient, network_id: str) -> None:
        try:
            client.unload(network_id)
        except (BoardError, Interrupted):
            return  # the board is gone: nothing is loaded there any more

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
