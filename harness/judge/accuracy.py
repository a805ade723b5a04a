"""Figures about outputs: accuracy of both networks, their difference, and their agreement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.judge.agreement import Agreement, agreement
from harness.judge.bootstrap import paired_bootstrap
from harness.judge.context import TargetContext
from harness.judge.evaluate import Evaluation, MetricResult
from harness.judge.metrics import PerSample
from harness.judge.statistics import Interval, mcnemar_exact, mean_interval, tango, wilson
from harness.record.figure import Figure, Network

#: Rounding errors of sums over samples stay below this, relative to the value.
_NO_WIDTH = 1e-12

#: The rows that compare outputs without labels, with their units.
AGREEMENT_ROWS = (("top1_agreement", "fraction"), ("sqnr_db", "dB"), ("cosine", ""), ("max_abs_diff", ""))


def accuracy_figures(
    context: TargetContext,
    float_eval: Evaluation,
    quantized_eval: Evaluation,
    agree: Agreement | None = None,
) -> list[Figure]:
    """Rows of every metric and of the agreement between the two networks on the same samples.

    A metric that is 0 or 1 per sample gets Wilson intervals and, for the difference quantized - float, Tango's; one
    with other values per sample gets t intervals of the mean and of the paired difference; one that combines rows in
    another way gets those of a paired bootstrap over samples; one number over the whole set has none. Nor has a value
    (or a difference) that all samples agree on, unless it is 0 or 1 per sample: Wilson and Tango know what to say then.

    Args:
        context: of the target.
        float_eval: the float network's.
        quantized_eval: the quantized network's, on the same ids in the same order.
        agree: the agreement, where it was accumulated chunk by chunk; else it is computed from the evaluations' scores.

    Raises:
        ValueError: the two do not rest on the same samples or metrics.
    """
    if float_eval.ids != quantized_eval.ids:
        msg = f"{context.target}: the two networks were evaluated on different samples"
        raise ValueError(msg)
    figures: list[Figure] = []
    for first, second in zip(float_eval.results, quantized_eval.results, strict=True):
        figures += _metric_rows(context, first, second, len(float_eval.ids))
    if agree is None and float_eval.scores is not None and quantized_eval.scores is not None:
        agree = agreement(float_eval.scores, quantized_eval.scores)
    classified = any(result.name.startswith(("accuracy_top", "mean_accuracy")) for result in float_eval.results)
    return figures + _agreement_rows(context, agree, classified=classified)


def _metric_rows(context: TargetContext, first: MetricResult, second: MetricResult, n: int) -> list[Figure]:
    found = _intervals(first, second)
    values = [None if math.isnan(result.value) else result.value for result in (first, second)]
    why = "" if None not in values else "the metric does not exist on these samples"
    rows = [
        context.figure(
            network,
            first.name,
            value,
            first.unit,
            interval=_ends(_wide(own)),
            n=n,
            notes=(why, "" if own is None or _wide(own) else "no interval: all samples are alike"),
            about_outputs=True,
        )
        for network, value, own in zip((Network.FLOAT, Network.QUANTIZED), values, found.own, strict=True)
    ]
    delta = None if values[0] is None or values[1] is None else values[1] - values[0]
    apart = found.difference is None or _wide(found.difference)
    return [
        *rows,
        context.figure(
            Network.RATIO,
            f"{first.name}_delta",
            delta,
            first.unit,
            interval=_ends(_wide(found.difference)),
            n=n,
            notes=(why, found.note if apart else "no interval: no sample tells the networks apart; take more samples"),
            about_outputs=True,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Intervals:
    own: tuple[Interval | None, Interval | None]
    difference: Interval | None
    note: str


def _intervals(first: MetricResult, second: MetricResult) -> _Intervals:
    """Of both networks' values and of their paired difference, and how the latter was made."""
    one, other = first.per_sample, second.per_sample
    if one is not None and other is not None:
        difference, note = _difference(one, other)
        return _Intervals((_own_interval(one), _own_interval(other)), difference, note)
    if first.rows is None or second.rows is None or first.formula is None:
        return _Intervals((None, None), None, "one value for the whole set: no interval")
    drawn = paired_bootstrap(first.formula, first.rows, second.rows)
    note = f"paired bootstrap over samples, {drawn.resamples:,} resamples"
    own = (drawn.first, drawn.second)
    if first.unit == "fraction":
        own = (_within_one(drawn.first), _within_one(drawn.second))
    return _Intervals(own, drawn.difference, note)


def _wide(interval: Interval | None) -> Interval | None:
    """The interval, None where it has no width: samples that are all alike tell a spread of 0, which is no certainty.

    Four right answers of four would else be a mean accuracy of 100 % ± 0, and pass every gate.
    """
    if interval is None or interval.high - interval.low > _NO_WIDTH * max(1.0, abs(interval.high)):
        return interval
    return None


def _within_one(interval: Interval | None) -> Interval | None:
    """A share cannot lie outside 0…1."""
    return None if interval is None else Interval(max(interval.low, 0.0), min(interval.high, 1.0))


def _is_binary(values: PerSample) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval else None


def _own_interval(per_sample: PerSample) -> Interval | None:
    if _is_binary(per_sample):
        return wilson(int(per_sample.sum()), per_sample.size)
    return mean_interval(per_sample)


def _difference(first: PerSample, second: PerSample) -> tuple[Interval | None, str]:
    if not (_is_binary(first) and _is_binary(second)):
        return mean_interval(second - first), "t interval of the paired difference"
    float_only = int(np.sum((first == 1) & (second == 0)))
    quantized_only = int(np.sum((first == 0) & (second == 1)))
    p = mcnemar_exact(float_only, quantized_only)
    note = f"right in Floating-Point only: {float_only}, in Quantized only: {quantized_only}, exact McNemar p = {p:.3g}"
    return tango(quantized_only, float_only, first.size), note


def _agreement_rows(context: TargetContext, agree: Agreement | None, *, classified: bool) -> list[Figure]:
    def row(metric: str, unit: str, value: float | None, note: str, interval: Interval | None = None) -> Figure:
        n = agree.n if agree else None
        ends = _ends(interval)
        return context.figure(Network.RATIO, metric, value, unit, interval=ends, n=n, notes=(note,), about_outputs=True)

    if agree is None:
        return [row(metric, unit, None, "several outputs, none named: not compared") for metric, unit in AGREEMENT_ROWS]
    if classified and agree.top1_same is not None:
        top1 = row(
            "top1_agreement", "fraction", agree.top1_same / agree.n, "", interval=wilson(agree.top1_same, agree.n)
        )
    else:
        top1 = row("top1_agreement", "fraction", None, "no class scores: the job has no accuracy metric")
    return [
        top1,
        row("sqnr_db", "dB", agree.sqnr_db, agree.note),
        row("cosine", "", agree.cosine, ""),
        row("max_abs_diff", "", agree.max_abs_diff, ""),
    ]
