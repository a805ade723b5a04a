"""Rows about time: throughput, percentiles and their bounds, warm-up, and how the two networks compare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.judge.context import TargetContext
from harness.judge.statistics import GeometricMean, geometric_mean
from harness.judge.statistics_bootstrap import bca_geometric_mean
from harness.judge.stopping import Outcome
from harness.judge.timing import (
    NetworkTiming,
    not_warm,
    pair_quantile_ratios,
    pair_ratios,
    round_ratios,
    speedup,
    stopped,
)
from harness.record.figure import Figure, Network
from harness.record.networks import Loading
from harness.record.timing import BlockRecord, StoppingRule

#: Metric → p. The bounds are MLPerf's early stopping (`statistics_tail`).
PERCENTILES = (
    ("latency_p50_ms", 0.50),
    ("latency_p90_ms", 0.90),
    ("latency_p95_ms", 0.95),
    ("latency_p99_ms", 0.99),
    ("latency_p999_ms", 0.999),
)
BOUNDS = (
    ("latency_p90_bound_ms", 0.90),
    ("latency_p95_bound_ms", 0.95),
    ("latency_p99_bound_ms", 0.99),
    ("latency_p999_bound_ms", 0.999),
)
#: (metric, unit) of each network, and of both together.
TIME_ROWS = (("fps", "1/s"), *((name, "ms") for name, _ in (*PERCENTILES, *BOUNDS)), ("warm_up_s", "s"))
_TAIL_RATIOS = (("latency_p95_speedup", 0.95), ("latency_p99_speedup", 0.99))
RATIO_ROWS = (("speedup", "x"), *((name, "x") for name, _ in _TAIL_RATIOS))

#: From here on the bootstrap over rounds covers what it says: 94.8 % of 40, 91.8 % of 20 (docs/statistics.md).
OPINION_ROUNDS = 40
#: Of records that do not tell their rule: settled when half the interval, on the logarithm, is no wider than this.
_SETTLED_HALF_WIDTH = 0.02


def network_rows(
    context: TargetContext,
    network: Network,
    timing: NetworkTiming | None,
    loadings: Sequence[Loading],
    note: str = "",
) -> list[Figure]:
    """The rows `TIME_ROWS` of one network.

    Args:
        context: of the target.
        network: which.
        timing: of its blocks, None where it was not timed.
        loadings: of the target's networks: how their warm-up ended.
        note: added to every row with a value.
    """
    if timing is None:
        return [context.figure(network, metric, None, unit, notes=("not timed",)) for metric, unit in TIME_ROWS]
    batch = f"in batches of {timing.batch_size}" if timing.batch_size > 1 else ""
    notes = (batch, not_warm(loadings, network), note)
    rate = timing.samples_per_s
    rows = [
        context.figure(
            network, "fps", rate.value, "1/s", interval=ends(rate), n=timing.blocks, notes=("n: blocks", *notes)
        )
    ]
    rows += [_percentile_row(context, network, timing, metric, p, notes) for metric, p in PERCENTILES]
    rows += [_bound_row(context, network, timing, metric, p, notes) for metric, p in BOUNDS]
    return [*rows, _warm_up_row(context, network, loadings)]


def ratio_rows(
    context: TargetContext,
    blocks: Sequence[BlockRecord],
    loadings: Sequence[Loading],
    rule: StoppingRule | None,
    note: str = "",
) -> list[Figure]:
    """The rows `RATIO_ROWS`: Floating-Point / Quantized, from the pairs of blocks that count.

    Args:
        context: of the target.
        blocks: of both networks, rejected pairs included.
        loadings: how warm-up ended.
        rule: by which they were taken, None in records of older versions.
        note: added to every row with a value.
    """
    warm = not_warm(loadings, Network.FLOAT, Network.QUANTIZED)
    rows = [_speedup_row(context, blocks, rule, (warm, note))]
    for metric, p in _TAIL_RATIOS:
        ratios = pair_quantile_ratios(blocks, p)
        if not ratios:
            why = f"a block is too short for its own p{100 * p:g}" if pair_ratios(blocks) else "not timed"
            rows.append(context.figure(Network.RATIO, metric, None, "x", notes=(why,)))
        else:
            rows.append(paired_row(context, metric, ratios, (f"n: pairs of the blocks' own p{100 * p:g}", warm, note)))
    return rows


def paired_row(context: TargetContext, metric: str, pairs: Mapping[int, float], notes: Iterable[str]) -> Figure:
    """A ratio from one value per pair: geometric mean, Student's interval over ABBA rounds on the logarithm.

    Args:
        context: of the target.
        metric: the row's.
        pairs: index → ratio, at least one.
        notes: of the row; the BCa interval is added.
    """
    by_round = round_ratios(pairs)
    mean = replace(geometric_mean(by_round), n=2 * len(by_round)) if by_round else geometric_mean([*pairs.values()])
    said = (*notes, _second_opinion(by_round))
    return context.figure(Network.RATIO, metric, mean.value, "x", interval=ends(mean), n=mean.n, notes=said)


def ends(mean: GeometricMean) -> tuple[float, float] | None:
    """The interval of a geometric mean as a row takes it."""
    return (mean.interval.low, mean.interval.high) if mean.interval else None


def _percentile_row(
    context: TargetContext, network: Network, timing: NetworkTiming, metric: str, p: float, notes: Iterable[str]
) -> Figure:
    estimate = timing.percentile(p)
    counted = f"{estimate.iterations:,} iterations in {timing.blocks} blocks"
    if estimate.value_ms is None:
        why = f"{counted} cannot carry p{100 * p:g}"
    elif estimate.interval is None:
        why = f"{counted}; no interval: " + ("one block" if timing.blocks < 2 else "a block is too short for it")
    else:
        why = counted
    between = (estimate.interval.low, estimate.interval.high) if estimate.interval else None
    return context.figure(
        network, metric, estimate.value_ms, "ms", interval=between, n=timing.blocks, notes=(why, *notes)
    )


def _bound_row(
    context: TargetContext, network: Network, timing: NetworkTiming, metric: str, p: float, notes: Iterable[str]
) -> Figure:
    bound = timing.bound(p)
    counted = f"{bound.n:,} iterations"
    if bound.effective_n < bound.n:
        counted += f" that tell as much as {bound.effective_n:,.0f} independent ones"
    if bound.value is None:
        why = f"{counted}; a bound on p{100 * p:g} takes {bound.least_n:,}"
    else:
        why = f"p{100 * p:g} is no more than this, with 99 % confidence (early stopping); {counted}"
    return context.figure(network, metric, bound.value, "ms", n=timing.blocks, notes=(why, *notes))


def _warm_up_row(context: TargetContext, network: Network, loadings: Sequence[Loading]) -> Figure:
    """How long it took until the latency was steady; empty, with the word `not-warm`, where it never was."""
    own = [one for one in loadings if one.network is network and one.warm_up_s is not None]
    if cold := not_warm(loadings, network):
        return context.figure(network, "warm_up_s", None, "s", notes=(cold,))
    if not own:
        return context.figure(network, "warm_up_s", None, "s", notes=("not warmed up",))
    counted = f"until steady, {own[-1].warm_up_iterations:,} iterations"
    return context.figure(network, "warm_up_s", own[-1].warm_up_s, "s", notes=(counted,))


def _speedup_row(
    context: TargetContext, blocks: Sequence[BlockRecord], rule: StoppingRule | None, notes: Iterable[str]
) -> Figure:
    ratio = speedup(blocks, rule)
    if ratio is None:
        return context.figure(Network.RATIO, "speedup", None, "x", notes=("not timed",))
    said = (
        "n: float/int8 pairs of blocks",
        _settled(ratio, blocks, rule),
        _second_opinion(round_ratios(pair_ratios(blocks))),
        *notes,
    )
    return context.figure(Network.RATIO, "speedup", ratio.value, "x", interval=ends(ratio), n=ratio.n, notes=said)


def _settled(ratio: GeometricMean, blocks: Sequence[BlockRecord], rule: StoppingRule | None) -> str:
    """Whether the goal was reached, or what stood in its way: then the ratio is `inconclusive` at that goal."""
    if ratio.interval is None:
        return "too few pairs of blocks for an interval"
    if rule is not None:
        decision = stopped(blocks, rule)
        return decision.text if decision.outcome is Outcome.REACHED else f"inconclusive: {decision.text}"
    wide = math.log(ratio.interval.high / ratio.interval.low) / 2 > _SETTLED_HALF_WIDTH
    return "inconclusive: the interval is wider than ±2 %" if wide else ""


def _second_opinion(ratios: Sequence[float]) -> str:
    found = bca_geometric_mean(ratios) if len(ratios) >= OPINION_ROUNDS else None
    return "" if found is None else f"BCa bootstrap: {found.low:.4g} to {found.high:.4g}"
