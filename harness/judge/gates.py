"""Gates decided on a run's figures: pass, fail, or inconclusive with what would settle it.

    results = decide_gates(job.gates, record.targets, record.figures)

A decision rests on the ends of the 95 % interval, never on the point alone: a threshold inside the interval is
inconclusive. A figure of another kind than the gate accepts (a stand-in's, a model's) decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.judge.context import TargetContext
from harness.judge.gates_settle import settle
from harness.judge.gates_units import bound_of, percentile_of, title_of
from harness.judge.gates_values import Gate, Place
from harness.judge.numbers import threshold_text
from harness.judge.timing import network_timing, not_warm
from harness.record.figure import Figure, Network, Source
from harness.record.gates import GateResult, Outcome, Rule
from harness.record.target import TargetRecord

#: Counts and extremes: of these samples, this network or this run they are what they are, without an interval.
_EXACT = frozenset(
    {
        *("learnable_memory_bytes", "learnable_memory_ratio", "peak_memory_bytes", "temperature_c"),
        *("max_abs_diff", "sqnr_db", "cosine", "reference_lsb", "clock_mhz", "pairs_rejected", "warm_up_s"),
        *("conv_threads", "fc_threads", "lut_percent", "bram_percent", "dsp_percent"),
        # the end of an interval themselves
        *("latency_p90_bound_ms", "latency_p95_bound_ms", "latency_p99_bound_ms", "latency_p999_bound_ms"),
    }
)
#: What a board that is too warm, or not yet warm, gets wrong.
_ABOUT_TIME = ("fps", "speedup", "latency_", "energy_", "power_", "cpu_percent", "temperature_")
_WITH_FIGURES = ("done", "throttled")


def decide_gates(
    gates: Sequence[Gate], targets: Sequence[TargetRecord], figures: Iterable[Figure]
) -> tuple[GateResult, ...]:
    """Every gate on every target where it holds, in the order of the targets.

    Args:
        gates: with their overrides.
        targets: of the run.
        figures: of the run.
    """
    index = {(figure.target, figure.network, figure.metric): figure for figure in figures}
    results: list[GateResult] = []
    for target in targets:
        place = Place(target.entry_name, target.board, target.environment, target.tags)
        for gate in gates:
            here = gate.on(place)
            if here is not None:
                figure = index.get((target.name, here.network, _row(here))) or _percentile(target, here)
                bound = index.get((target.name, here.network, bound_of(here.metric)))
                results.append(_decide(here, target, figure, bound))
    return tuple(results)


def rests_on_timing(metric: str) -> bool:
    """Whether a metric comes of the timed blocks: times, throughput, energy, heat."""
    return metric.startswith(_ABOUT_TIME)


def claim(gate: Gate) -> str:
    """What a gate asks, for a reader."""
    if gate.rule is Rule.NON_INFERIOR:
        return f"{title_of(gate.metric)} loses less than {threshold_text(gate.threshold, gate.unit, difference=True)}"
    difference = gate.metric.endswith("_delta")
    owner = "Floating-Point " if gate.network is Network.FLOAT else ""
    words = "at least" if gate.rule is Rule.AT_LEAST else "at most"
    return f"{owner}{title_of(gate.metric)} {words} {threshold_text(gate.threshold, gate.unit, difference=difference)}"


def _row(gate: Gate) -> str:
    return f"{gate.metric}_delta" if gate.rule is Rule.NON_INFERIOR else gate.metric


def _decide(gate: Gate, target: TargetRecord, figure: Figure | None, bound: Figure | None) -> GateResult:
    interval, why = _evidence(gate, target, figure, bound)
    if interval is None:
        outcome, detail = Outcome.INCONCLUSIVE, why
    else:
        outcome = _outcome(gate, *interval)
        most = None if target.stopping is None else 2 * target.stopping.most_rounds
        detail = settle(gate, figure, interval, most) if outcome is Outcome.INCONCLUSIVE and figure is not None else ""
        if not math.isfinite(interval[0]):
            detail = "; ".join(part for part in ("by the early-stopping bound (99 % confidence)", detail) if part)
    ends = interval if interval is not None else _ends(figure)
    return GateResult(
        target=target.name,
        gate=gate.name,
        claim=claim(gate),
        outcome=outcome,
        metric=_row(gate),
        network=gate.network,
        rule=gate.rule,
        threshold=gate.threshold,
        unit=gate.unit,
        value=None if figure is None else figure.value,
        ci_low=ends[0] if ends and math.isfinite(ends[0]) else None,
        ci_high=ends[1] if ends else None,
        n=None if figure is None else figure.n,
        source=None if figure is None or figure.value is None else figure.source,
        detail=detail,
    )


def _outcome(gate: Gate, low: float, high: float) -> Outcome:
    """Pass where the whole interval is on the right side, fail where none of it is."""
    match gate.rule:
        case Rule.NON_INFERIOR:
            worst_loss, least_loss = (-low, -high) if gate.higher_is_better else (high, low)
            passes, fails = worst_loss < gate.threshold, least_loss >= gate.threshold
        case Rule.AT_LEAST:
            passes, fails = low >= gate.threshold, high < gate.threshold
        case Rule.AT_MOST:
            passes, fails = high <= gate.threshold, low > gate.threshold
    return Outcome.PASS if passes else Outcome.FAIL if fails else Outcome.INCONCLUSIVE


def _evidence(
    gate: Gate, target: TargetRecord, figure: Figure | None, bound: Figure | None
) -> tuple[tuple[float, float] | None, str]:
    """(interval that decides, "") or (None, why nothing can be decided)."""
    if target.status not in _WITH_FIGURES:
        ended = f"{target.status}: {target.error}" if target.error else target.status
        return None, f"not measured: {'not reached' if target.status == 'pending' else ended}"
    if figure is None:
        if target.source not in gate.sources:
            return None, _no_board(target.source)
        return None, f"not measured: the run has no {_row(gate)} of {gate.network}"
    if figure.value is None:
        return None, f"not measured: {figure.note or 'nothing is known'}{_longer(gate, figure)}"
    if figure.source not in gate.sources:
        return None, _no_board(figure.source)
    if rests_on_timing(gate.metric) and (why := _unfit(gate, target, figure.source)):
        return None, why
    if figure.source is Source.MODELLED:
        if gate.model_error is None:
            return None, "a model's figure has no interval: give the gate a model_error"
        return (figure.value * (1 - gate.model_error), figure.value * (1 + gate.model_error)), ""
    ends = _ends(figure)
    if ends is not None:
        return ends, ""
    if bound is not None and bound.value is not None and gate.rule is Rule.AT_MOST:
        return (-math.inf, bound.value), ""  # no end below: it can pass and never fail
    if gate.metric in _EXACT and gate.rule is not Rule.NON_INFERIOR:
        return (figure.value, figure.value), ""
    why = figure.note if "no interval" in figure.note else f"no interval{f': {figure.note}' if figure.note else ''}"
    return None, f"{why}{_longer(gate, figure)}"


def _no_board(source: Source) -> str:
    if source is Source.EMULATED:
        return "not measured: emulated; run it on a board, or accept it with `source: [measured, emulated]`"
    if source is Source.MODELLED:
        return "not measured: modelled; run it on a board, or accept it with `source: [modelled]` and a model_error"
    return f"not measured: {source}; run it on a board"


def _unfit(gate: Gate, target: TargetRecord, source: Source) -> str:
    """Why times of this board do not count, "" where they do."""
    if source is not Source.MEASURED:
        return ""
    if target.status == "throttled":
        return "throttled: cool the board and run again"
    both = (Network.FLOAT, Network.QUANTIZED)
    asked = both if gate.network is Network.RATIO else (gate.network,)
    cold = [f"{network}: {why}" for network in asked if (why := not_warm(target.loadings, network))]
    bounded = target.stopping is not None and target.stopping.budget_s is not None
    remedy = "quieten the board or give a longer --budget" if bounded else "quieten the board"
    return f"{'; '.join(cold)}; {remedy} and run again" if cold else ""


def _ends(figure: Figure | None) -> tuple[float, float] | None:
    if figure is None or figure.ci_low is None or figure.ci_high is None:
        return None
    return figure.ci_low, figure.ci_high


def _longer(gate: Gate, figure: Figure) -> str:
    timed = figure.source is Source.MEASURED and percentile_of(gate.metric) is not None
    return "; measure longer: `--profile release`" if timed else ""


def _percentile(target: TargetRecord, gate: Gate) -> Figure | None:
    """A latency percentile that the table has no row for, from the raw blocks; None for anything else."""
    p = percentile_of(gate.metric)
    if p is None or gate.network is Network.RATIO or target.source is not Source.MEASURED:
        return None
    if target.status not in _WITH_FIGURES or not target.blocks:
        return None
    timing = network_timing(target.blocks, gate.network)
    if timing is None:
        return None
    found = timing.percentile(p)
    counted = f"{found.iterations:,} iterations in {timing.blocks} blocks"
    if found.value_ms is None:
        note = f"{counted} cannot carry that percentile"
    else:
        note = counted if found.interval else f"{counted}: a block is too short for it"
    ends = (found.interval.low, found.interval.high) if found.interval else None
    return TargetContext.of(target).figure(
        gate.network, gate.metric, found.value_ms, "ms", interval=ends, n=timing.blocks, notes=(note,)
    )
