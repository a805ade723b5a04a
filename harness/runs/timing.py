"""Float and int8 timed side by side: warm-up, then ABBA blocks until the ratio is known well enough."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.judge.figure import Network
from harness.record import BlockRecord
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


def half_width(blocks: Sequence[BlockRecord]) -> float:
    """Half the 95 % interval of ln(int8 / float) over complete pairs; infinite below two pairs."""
    from harness.judge.timing import speedup  # half a second of scipy, loaded while the boards work

    ratio = speedup(blocks)
    if ratio is None or ratio.interval is None:
        return math.inf
    return math.log(ratio.interval.high / ratio.interval.low) / 2


@dataclass(frozen=True, slots=True)
class Timing:
    """Times two networks that are loaded on one board.

    Args:
        networks: network → its id on the agent.
        keep: called with every finished block at once.
        progress: called with (pairs done, pairs at most).
    """

    client: AgentClient
    networks: Mapping[Network, str]
    profile: Profile
    stop: threading.Event
    keep: Callable[[BlockRecord], None]
    progress: Callable[[int, int], None]

    def warm_up(self, network: Network) -> WarmUp:
        """Run one network until its latency is steady, or the profile's cap."""
        profile = self.profile
        return self.client.warm_up(
            self.networks[network],
            min_iterations=10,
            min_duration_s=profile.warm_up_s,
            max_duration_s=profile.warm_up_cap_s,
            window_s=profile.warm_up_window_s,
            tolerance=profile.warm_up_tolerance,
        )

    def run(self, finished: Sequence[BlockRecord], between_pairs: Callable[[], None]) -> list[BlockRecord]:
        """Add pairs of blocks to those already `finished` until the profile is content.

        Raises:
            Interrupted: `stop` was set; every finished block was kept.
        """
        blocks = list(finished)
        pair = 1 + max((block.pair for block in blocks), default=-1)
        while not self._enough(blocks, pair):
            for network in pair_order(pair):
                if self.stop.is_set():
                    raise Interrupted
                block = self._block(network, pair)
                self.keep(block)
                blocks.append(block)
            pair += 1
            self.progress(pair, self.profile.max_pairs)
            between_pairs()
        return blocks

    def _enough(self, blocks: Sequence[BlockRecord], pairs: int) -> bool:
        if pairs >= self.profile.max_pairs:
            return True
        return pairs >= self.profile.min_pairs and half_width(blocks) <= self.profile.half_width

    def _block(self, network: Network, pair: int) -> BlockRecord:
        timed = self.client.time_block(
            self.networks[network],
            min_iterations=self.profile.block_iterations,
            min_duration_s=self.profile.block_s,
            max_iterations=_MAX_ITERATIONS,
        )
        return BlockRecord(
            network,
            pair,
            tuple(timed.latency_ns),
            timed.started_unix_s,
            timed.duration_s,
            timed.batch_size,
            timed.cpu_time_s,
            timed.peak_memory_bytes,
        )
