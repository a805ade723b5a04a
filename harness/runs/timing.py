"""Float and int8 timed side by side: warm-up, then ABBA blocks until the ratio is known well enough."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from harness.errors import BadResult
from harness.judge.clocks import clock_too_coarse
from harness.judge.stopping import Outcome, decide, rounds, rounds_needed
from harness.record.figure import Network
from harness.record.timing import BlockRecord, StoppingRule
from harness.runs.block_watch import BlockWatch
from harness.runs.interrupt import Interrupted
from harness.runs.profile import Profile
from harness.targets.client import AgentClient
from harness.targets.values import WarmUp

#: Ceiling of samples per block; at 10 µs an inference a 1 s block holds 100,000.
_MAX_ITERATIONS = 100_000


def pair_order(pair: int) -> tuple[Network, Network]:
    """ABBA: even pairs run float first, odd ones int8 first, so that a linear drift cancels out."""
    both = (Network.FLOAT, Network.QUANTIZED)
    return both if pair % 2 == 0 else (both[1], both[0])


@dataclass(frozen=True, slots=True)
class Timing:
    """Times two networks that are loaded on one board.

    Args:
        networks: network → its id on the agent.
        keep: called with every finished block at once.
        progress: called with (pairs done, pairs that it will take: the first stage tells).
        rule: by which it ends; None: the profile's.
        deadline: on `time.monotonic`, when the budget is over; None without one.
        watch: tells which pairs the board disturbed; None: nobody looks.
    """

    client: AgentClient
    networks: Mapping[Network, str]
    profile: Profile
    stop: threading.Event
    keep: Callable[[BlockRecord], None]
    progress: Callable[[int, int], None]
    rule: StoppingRule | None = None
    deadline: float | None = None
    watch: BlockWatch | None = None

    def warm_up(self, network: Network) -> WarmUp:
        """Run one network until its latency is steady, or the profile's cap."""
        profile = self.profile
        with self.watch.warming(network) if self.watch is not None else nullcontext():
            return self.client.warm_up(
                self.networks[network],
                min_iterations=10,
                min_duration_s=profile.warm_up_s,
                max_duration_s=profile.warm_up_cap_s,
                window_s=profile.warm_up_window_s,
                tolerance=profile.warm_up_tolerance,
            )

    def run(self, finished: Sequence[BlockRecord], between_pairs: Callable[[], None]) -> list[BlockRecord]:
        """Add pairs of blocks to those already `finished` until the rule is content, or the budget is over.

        Raises:
            Interrupted: `stop` was set; every finished block was kept.
        """
        from harness.judge.timing import pair_ratios  # half a second of scipy, loaded while the boards work

        rule = self.rule or self.profile.rule()
        blocks = list(finished)
        pair = 1 + max((block.pair for block in blocks), default=-1)
        attempted = len({block.pair for block in blocks})
        logs = {number: math.log(ratio) for number, ratio in pair_ratios(blocks).items()}
        last_s = 0.0
        while True:
            over = self._is_over(attempted, len(logs), last_s)
            decision = decide(rule, rounds(logs), attempted, attempted - len(logs), time_is_over=over)
            if decision.outcome is not Outcome.OPEN:
                return blocks
            began = time.monotonic()
            halves = self._pair(pair)
            blocks += halves
            logs |= {number: math.log(ratio) for number, ratio in pair_ratios(halves).items()}
            pair += 1
            attempted += 1
            self.progress(attempted, max(attempted, 2 * rounds_needed(rule, rounds(logs))))
            between_pairs()
            last_s = time.monotonic() - began

    def _is_over(self, attempted: int, counted: int, last_s: float) -> bool:
        """Whether the budget has no room for another round; two are taken anyway, with fewer there is no interval."""
        if self.deadline is None or attempted < 4:
            return False
        left_s = self.deadline - time.monotonic()
        return left_s < 2 * last_s if counted % 2 == 0 else left_s < 0  # half a round would count for nothing

    def _pair(self, pair: int) -> tuple[BlockRecord, ...]:
        """Both halves, with the verdict on them; kept together, since half a pair is no pair."""
        if self.watch is not None:
            self.watch.begin(pair)
        halves: tuple[BlockRecord, ...] = ()
        for network in pair_order(pair):
            if self.stop.is_set():
                raise Interrupted
            halves = (*halves, self._block(network, pair))
        if self.watch is not None:
            halves = self.watch.judged(halves)
        for block in halves:
            self.keep(block)
        if self.watch is not None:
            self.watch.rest(halves, self.deadline)
        return halves

    def _block(self, network: Network, pair: int) -> BlockRecord:
        timed = self.client.time_block(
            self.networks[network],
            min_iterations=self.profile.block_iterations,
            min_duration_s=self.profile.block_s,
            max_iterations=_MAX_ITERATIONS,
        )
        block = BlockRecord(
            network,
            pair,
            tuple(timed.latency_ns),
            timed.started_unix_s,
            timed.duration_s,
            timed.batch_size,
            timed.cpu_time_s,
            timed.peak_memory_bytes,
            clock=timed.clock,
            clock_resolution_ns=timed.clock_resolution_ns,
            clock_tick_ns=timed.clock_tick_ns,
        )
        if (coarse := clock_too_coarse(block)) is not None:
            raise BadResult(self.client.target, coarse)
        return block
