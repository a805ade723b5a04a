"""The timed part of one target: warm up, blocks in turn, telemetry beside them, and the board at rest around them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.data.batch import padded
from harness.judge.clocks import describe_clock
from harness.record.figure import ARMS, Network
from harness.record.timing import BlockRecord
from harness.runs.block_watch import BlockWatch, idle_for, interval_for
from harness.runs.budget import Budget
from harness.runs.plan import Plan
from harness.runs.samples import Array
from harness.runs.target_log import TargetLog
from harness.runs.timing import Timing
from harness.targets.client import AgentClient

#: Providers that run on the processor's cores: its clock is the one to watch.
_CPU_PROVIDERS = frozenset({"CPUExecutionProvider", "XnnpackExecutionProvider"})


@dataclass(frozen=True)
class TargetTiming:
    """Times both networks of one target.

    Args:
        plan: of the run.
        log: of the target.
        batch: samples per inference; None: free.
        stop: set when the run shall end.
    """

    plan: Plan
    log: TargetLog
    batch: int | None
    stop: threading.Event

    def time(self, client: AgentClient, ids: Mapping[Network, str]) -> None:
        """Time what is missing; every block is kept as it ends.

        Args:
            client: of the agent.
            ids: of the loaded networks.

        Raises:
            BoardError: the board fails.
            Interrupted: `stop` was set.
        """
        finished = self._whole_pairs()
        size = self.batch or 1
        sample = self.plan.data.read(self.plan.samples[:size]).inputs
        inputs = padded(sample, size) | self.plan.zero_state()
        with self._watch(client) as watch:
            self._idle(watch, "before")
            blocks = self._timed(client, ids, inputs, finished, watch)
            self._idle(watch, "after")
        told = (describe_clock(blocks), f"rested {watch.rested_s:.3g} s to cool down" if watch.rested_s else "")
        self.log.save(blocks=tuple(blocks))
        self.log.note(*(note for note in told if note))

    def _timed(
        self,
        client: AgentClient,
        ids: Mapping[Network, str],
        inputs: Mapping[str, Array],
        finished: list[BlockRecord],
        watch: BlockWatch,
    ) -> list[BlockRecord]:
        journal, name = self.log.store, self.log.name
        budget = Budget.after(self.plan.budget_s, finished)
        timing = Timing(
            client,
            ids,
            budget.for_warm_up(self.plan.profile),
            self.stop,
            keep=lambda block: journal.add_block(self.plan.run_id, name, block),
            progress=lambda pairs, most: self.log.progress("time", pairs, most),
            watch=watch,
        )
        warmed = []
        for network in ARMS:
            self.log.progress(f"warm up {network.value}", 0, None)
            client.load_inputs(ids[network], inputs)
            warm = timing.warm_up(network)
            warmed.append(warm)
            loading = next(old for old in self.log.record.loadings if old.network == network)
            self.log.save_loading(
                replace(
                    loading,
                    warm_up_iterations=warm.iterations,
                    warm_up_s=warm.duration_s,
                    steady=warm.steady,
                    first_ms=warm.first_ms,
                )
            )
        self.log.save(steady_clocks=watch.steady_clocks)
        self._say_not_warm()
        profile = budget.for_blocks(timing.profile, warmed)
        rule = self.log.record.stopping or profile.rule(self.plan.budget_s)  # an earlier try's, when it has one
        self.log.save(stopping=rule)
        return replace(timing, profile=profile, rule=rule, deadline=budget.deadline).run(finished, lambda: None)

    def _watch(self, client: AgentClient) -> BlockWatch:
        """Telemetry beside the blocks."""
        on_cpu = {one.network: set(one.providers) <= _CPU_PROVIDERS for one in self.log.record.loadings}
        return BlockWatch(
            client,
            on_cpu,
            self.stop,
            interval_s=interval_for(self.plan.profile.block_s),
            say=self.log.say,
            keep=lambda points: self.log.save(telemetry=(*self.log.record.telemetry, *points)),
        )

    def _idle(self, watch: BlockWatch, when: str) -> None:
        """What the board draws at rest, where it tells."""
        self.log.progress(f"idle {when} timing", 0, None)
        if (window := watch.idle(when, idle_for(self.plan.profile.block_s))) is not None:
            self.log.save(idle=(*self.log.record.idle, window))

    def _whole_pairs(self) -> list[BlockRecord]:
        """The blocks of an earlier try; half a pair is dropped, since its other half would lie elsewhere in time."""
        blocks = self.log.store.blocks(self.plan.run_id, self.log.name)
        seen: dict[int, int] = {}
        for block in blocks:
            seen[block.pair] = seen.get(block.pair, 0) + 1
        halves = [pair for pair, count in seen.items() if count != len(ARMS)]
        self.log.store.drop_blocks(self.plan.run_id, self.log.name, halves)
        return [block for block in blocks if block.pair not in halves]

    def _say_not_warm(self) -> None:
        """A network that never became steady is told where every reader looks, not in a row's note alone."""
        from harness.judge.timing import not_warm  # half a second of scipy, loaded while the boards work

        kept = tuple(note for note in self.log.record.notes if not note.startswith("not-warm"))
        cold = not_warm(self.log.record.loadings, *ARMS)
        self.log.save(notes=(*kept, cold) if cold else kept)
