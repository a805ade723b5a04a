"""From timed blocks to throughput, latency percentiles and the paired speed-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import BadResult
from harness.judge.rejected import clean_pairs as clean_pairs  # noqa: PLC0414 - part of this module's interface
from harness.judge.rejected import rejected_pairs
from harness.judge.statistics import (
    GeometricMean,
    Interval,
    geometric_mean,
    quantile,
    quantile_point,
    quantile_ranks,
    sectioned_interval,
)
from harness.judge.statistics_tail import TailBound, tail_bound
from harness.judge.stopping import Decision, decide, half_width, rounds
from harness.record.figure import Network
from harness.record.networks import Loading
from harness.record.timing import BlockRecord, StoppingRule

#: One iteration longer than this is no inference but a wrong clock or a hostile board: a day, in ns.
_LONGEST_NS = 86_400 * 10**9

#: A block cannot be shorter than the iterations inside it; 1 % for two clock readings that are not the same instant.
_DURATION_SLACK = 0.99


@dataclass(frozen=True, slots=True)
class Percentile:
    """A latency percentile of all raw samples.

    Args:
        value_ms: None where the samples cannot carry it.
        interval: over blocks; None with fewer than two blocks or blocks too short for this percentile.
        iterations: how many raw samples there are.
    """

    value_ms: float | None
    interval: Interval | None
    iterations: int


@dataclass(frozen=True, slots=True)
class NetworkTiming:
    """One network's timed blocks on one board.

    Args:
        blocks: how many.
        samples_per_s: geometric mean over blocks of samples / sum of their latencies.
        peak_memory_bytes: highest high-water mark of the network's process.
        cpu_percent: CPU time / elapsed time of all blocks, in percent of one logical processor.
        batch_size: samples that one iteration takes.
    """

    blocks: int
    samples_per_s: GeometricMean
    peak_memory_bytes: int
    cpu_percent: float
    batch_size: int
    _latencies_ms: tuple[NDArray[np.float64], ...]

    def percentile(self, p: float) -> Percentile:
        """The p-quantile (0 < p < 1) of all latencies."""
        everything = np.concatenate(self._latencies_ms)
        estimate = quantile(everything, p)
        if estimate is None:
            return Percentile(None, None, int(everything.size))
        interval = sectioned_interval(self._latencies_ms, p, estimate.value)
        return Percentile(estimate.value, interval, int(everything.size))

    def bound(self, p: float) -> TailBound:
        """A latency in ms that the p-quantile does not exceed, with 99 % confidence."""
        return tail_bound(self._latencies_ms, p)


def check_blocks(target: str, blocks: Sequence[BlockRecord]) -> None:
    """Refuse blocks that no honest board returns, before anything is computed from them.

    Raises:
        BadResult: no iteration, a latency that is not positive or longer than a day, a duration shorter than its
            iterations, a negative CPU time or memory, a batch size below 1.
    """
    for block in blocks:
        where = f"timed block {block.pair} of {block.network}"
        if not block.latency_ns:
            raise BadResult(target, f"{where} has no iteration: check the agent's log")
        if min(block.latency_ns) <= 0 or max(block.latency_ns) > _LONGEST_NS:
            raise BadResult(target, f"{where} has a latency that cannot be: check the board's clock")
        total_s = sum(block.latency_ns) / 1e9
        if not math.isfinite(block.duration_s) or block.duration_s < _DURATION_SLACK * total_s:
            says = f"{where} says it took {block.duration_s:.6g} s, its iterations alone {total_s:.6g} s"
            raise BadResult(target, f"{says}: check the board's clock")
        if not math.isfinite(block.cpu_time_s) or block.cpu_time_s < 0 or block.peak_memory_bytes < 0:
            raise BadResult(target, f"{where} has a negative CPU time or memory: check the agent's version")
        if block.batch_size < 1:
            raise BadResult(target, f"{where} has batch size {block.batch_size}: check the agent's version")


def network_timing(blocks: Sequence[BlockRecord], network: Network) -> NetworkTiming | None:
    """What the blocks of `network` say; None when there are none. Call `check_blocks` first."""
    own = [block for block in blocks if block.network is network]
    if not own:
        return None
    rates = [block.batch_size * len(block.latency_ns) * 1e9 / sum(block.latency_ns) for block in own]
    elapsed_s = sum(block.duration_s for block in own)
    return NetworkTiming(
        blocks=len(own),
        samples_per_s=geometric_mean(rates),
        peak_memory_bytes=max(block.peak_memory_bytes for block in own),
        cpu_percent=100 * sum(block.cpu_time_s for block in own) / elapsed_s,
        batch_size=own[0].batch_size,
        _latencies_ms=tuple(np.asarray(block.latency_ns, dtype=np.float64) / 1e6 for block in own),
    )


def block_medians_ms(blocks: Sequence[BlockRecord], network: Network) -> list[float]:
    """Median latency of each block of `network`, ms, in order."""
    return [float(np.median(block.latency_ns)) / 1e6 for block in blocks if block.network is network]


def pair_ratios(blocks: Sequence[BlockRecord]) -> dict[int, float]:
    """Pair → float over quantized latency, of every whole pair that was not rejected.

    The medians per sample; pairs with one half are left out.

    Raises:
        ValueError: a network twice in one pair.
    """
    return _paired(blocks, lambda latencies: float(np.median(latencies)))


def pair_quantile_ratios(blocks: Sequence[BlockRecord], p: float) -> dict[int, float]:
    """Like `pair_ratios`, of the blocks' own p-quantiles; empty where a block is too short to carry them."""
    counted = clean_pairs(blocks)
    if any(quantile_ranks(len(block.latency_ns), p) is None for block in counted):
        return {}
    return _paired(counted, lambda latencies: quantile_point(np.sort(latencies), p))


def round_ratios(pairs: Mapping[int, float]) -> list[float]:
    """The ratios of ABBA rounds from those of pairs (`stopping.rounds`): the unit of every interval of a ratio."""
    return [math.exp(one) for one in rounds({pair: math.log(ratio) for pair, ratio in pairs.items()})]


def _paired(blocks: Sequence[BlockRecord], of_block: Callable[[NDArray[np.float64]], float]) -> dict[int, float]:
    values: dict[Network, dict[int, float]] = {Network.FLOAT: {}, Network.QUANTIZED: {}}
    for block in clean_pairs(blocks):
        of_network = values[block.network]
        if block.pair in of_network:
            msg = f"pair {block.pair} has two blocks of {block.network}"
            raise ValueError(msg)
        of_network[block.pair] = of_block(np.asarray(block.latency_ns, dtype=np.float64)) / block.batch_size
    pairs = sorted(values[Network.FLOAT].keys() & values[Network.QUANTIZED].keys())
    return {pair: values[Network.FLOAT][pair] / values[Network.QUANTIZED][pair] for pair in pairs}


def speedup(blocks: Sequence[BlockRecord], rule: StoppingRule | None = None) -> GeometricMean | None:
    """How many times faster the quantized network is; None without a whole pair. `n` counts pairs.

    Args:
        blocks: of both networks.
        rule: by which they were taken: Stein's interval over ABBA rounds, from the spread of the first stage. None, as
            in records of older versions: Student's over pairs, 1/r of `statistics.paired_log_ratio`. Without two units
            there is a value and no interval.

    Raises:
        ValueError: a network twice in one pair.
    """
    pairs = pair_ratios(blocks)
    if not pairs:
        return None
    ratios = round_ratios(pairs)
    if rule is None or not ratios:
        return geometric_mean(list(pairs.values()))
    mean = replace(geometric_mean(ratios), n=2 * len(ratios))
    if mean.interval is None:
        return mean
    wide = half_width([math.log(one) for one in ratios], rule.first_stage)
    return replace(mean, interval=Interval(mean.value * math.exp(-wide), mean.value * math.exp(wide)))


def stopped(blocks: Sequence[BlockRecord], rule: StoppingRule) -> Decision:
    """What `rule` says of these blocks: that its goal was reached, or what stood in the way."""
    taken = len({block.pair for block in blocks})
    logs = [math.log(one) for one in round_ratios(pair_ratios(blocks))]
    return decide(rule, logs, taken, len(rejected_pairs(blocks)), time_is_over=rule.budget_s is not None)


def not_warm(loadings: Sequence[Loading], *networks: Network) -> str:
    """That figures of these networks are those of no steady state: "not-warm: …"; "" where all were steady.

    Args:
        loadings: of the target's networks.
        networks: which to look at.
    """
    cold = [
        f"{one.network.value} was not steady after {one.warm_up_s:.3g} s of warm-up"
        for one in loadings
        if one.network in networks and one.warm_up_s is not None and one.steady is False
    ]
    return f"not-warm: {', '.join(cold)}" if cold else ""
