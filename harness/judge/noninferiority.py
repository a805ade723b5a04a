"""Is the quantized network at most a margin worse? And how many samples does that question take?

Example:
    non_inferiority(float_only=3, quantized_only=2, n=3000, margin=0.01).verdict   # "pass"
    samples_needed(margin=0.01, discordant_share=0.02)                             # 1570
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from harness.judge.bootstrap import PairedBootstrap
from harness.judge.statistics import CONFIDENCE, tango

Verdict = Literal["pass", "fail", "inconclusive"]

#: Power that a sample size is computed for.
POWER = 0.8
#: Share of the samples on which just one of the two networks is right, where nothing is known yet: a good int8 network.
USUAL_DISCORDANT_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The answer about one metric.

    Args:
        verdict: pass: the upper limit of the loss lies below the margin; fail: its lower limit lies at the margin or
            above; inconclusive: neither, more samples would tell.
        loss: float - quantized at best estimate (of a metric where less is better: quantized - float).
        low: lower limit of the loss, one-sided 97.5 % (of the two-sided 95 %).
        upper: its upper limit, likewise.
        margin: the loss that is too much.
        n: samples.
        needed: samples that the margin takes at the observed discordance and no true loss, 80 % power; None where it is
            not known.
        method: how the limits were made.
    """

    verdict: Verdict
    loss: float
    low: float
    upper: float
    margin: float
    n: int
    needed: int | None
    method: str


def non_inferiority(
    float_only: int, quantized_only: int, n: int, margin: float, confidence: float = CONFIDENCE
) -> NonInferiority:
    """Of a metric that is right or wrong sample by sample, by Tango's score interval of the paired difference.

    At a true loss that equals the margin it passes at most (1 - confidence) / 2 of the time.

    Args:
        float_only: samples that only the float network got right.
        quantized_only: samples that only the quantized network got right.
        n: all samples.
        margin: largest loss that is accepted, as a fraction: 0.01 is one point.
        confidence: of the two-sided interval.

    Raises:
        ValueError: counts that cannot be, or a margin that is not positive.
    """
    _check(margin)
    limits = tango(float_only, quantized_only, n, confidence)
    loss = (float_only - quantized_only) / n
    share = (float_only + quantized_only) / n
    needed = max(samples_needed(margin, share, confidence=confidence), fewest_samples(margin, confidence))
    verdict = _verdict(limits.low, limits.high, margin)
    return NonInferiority(verdict, loss, limits.low, limits.high, margin, n, needed, "Tango's score interval")


def non_inferiority_resampled(
    resampled: PairedBootstrap,
    first: float,
    second: float,
    margin: float,
    *,
    higher_is_better: bool = True,
    confidence: float = CONFIDENCE,
) -> NonInferiority:
    """The same of any other metric, by the paired bootstrap.

    Args:
        resampled: both networks' metric, from `paired_bootstrap` at the same confidence.
        first: the float network's value.
        second: the quantized network's.
        margin: largest loss that is accepted, in the metric's unit.
        higher_is_better: of the metric.
        confidence: of the two-sided interval.

    Raises:
        ValueError: a margin that is not positive.
    """
    _check(margin)
    around = resampled.difference
    loss = first - second if higher_is_better else second - first
    if around is None:
        return NonInferiority("inconclusive", loss, math.nan, math.nan, margin, resampled.n, None, "no interval")
    low, upper = (-around.high, -around.low) if higher_is_better else (around.low, around.high)
    method = f"paired bootstrap over samples, {resampled.resamples:,} resamples"
    spread = float(np.std(resampled.differences)) * math.sqrt(resampled.n)
    needed = math.ceil(((_z(0.5 + confidence / 2) + _z(POWER)) * spread / margin) ** 2)
    return NonInferiority(_verdict(low, upper, margin), loss, low, upper, margin, resampled.n, max(needed, 2), method)


def samples_needed(
    margin: float,
    discordant_share: float,
    *,
    difference: float = 0.0,
    power: float = POWER,
    confidence: float = CONFIDENCE,
) -> int:
    """Samples with which non-inferiority is shown with that power: (z_a + z_b)^2 psi / (margin - D)^2, rounded up.

    `../docs/metrics.md`, 'How many samples', has the formula's table: margin 1 point, psi 2 / 4 / 8 % → 1,570 / 3,140 /
    6,280.

    Args:
        margin: largest loss that is accepted, as a fraction.
        discordant_share: psi, share of the samples on which just one of the two networks is right.
        difference: the true loss D, below the margin.
        power: probability of a pass.
        confidence: of the two-sided interval.

    Raises:
        ValueError: a margin that is not above the difference, or a share outside 0…1.
    """
    if not 0 <= discordant_share <= 1 or margin <= difference:
        msg = f"no number of samples: margin {margin}, difference {difference}, discordant share {discordant_share}"
        raise ValueError(msg)
    z = _z(0.5 + confidence / 2) + _z(power)
    # the constants of the published tables are rounded; 1 part in 10^9 keeps them from rounding up twice
    return max(1, math.ceil(z * z * discordant_share / (margin - difference) ** 2 * (1 - 1e-9)))


def fewest_samples(margin: float, confidence: float = CONFIDENCE) -> int:
    """Samples below which nothing passes, even where both networks agree on every one.

    Tango's upper limit without a discordant pair is z^2 / (n + z^2).
    """
    _check(margin)
    z = _z(0.5 + confidence / 2)
    return math.floor(z * z * (1 - margin) / margin) + 1


def sample_size_advice(
    margin: float,
    n: int,
    discordant_share: float = USUAL_DISCORDANT_SHARE,
    *,
    observed: bool = False,
    worth: int | None = None,
) -> str | None:
    """What n samples can say about a margin, in one line; None where they are enough.

    Args:
        margin: largest loss that is accepted, as a fraction.
        n: samples there are.
        discordant_share: see `samples_needed`; before a run, what is usual.
        observed: the share was observed, not assumed.
        worth: of a mean over classes: how many samples of evenly filled classes these are worth. It has a bootstrap
            interval, so `fewest_samples` says nothing of it.
    """
    fewest = fewest_samples(margin) if worth is None else 0
    needed = max(samples_needed(margin, discordant_share), fewest)
    have = n if worth is None else worth
    if have >= needed:
        return None
    basis = "as observed" if observed else "usual of a good int8 network"
    expect = "at best inconclusive" if have < fewest else "expect inconclusive"
    points = "point" if 100 * margin == 1 else "points"
    evenly = "" if worth is None else ", spread evenly over the classes"
    counts = "" if have == n else f", which count as {have:,} in classes of these sizes"
    return (
        f"a margin of {100 * margin:g} {points} needs {needed:,} samples{evenly} where the networks disagree on "
        f"{100 * discordant_share:.2g} % ({basis}; power {POWER:.0%}); you have {n:,}{counts}: {expect}"
    )


def _verdict(low: float, upper: float, margin: float) -> Verdict:
    if upper < margin:
        return "pass"
    return "fail" if low >= margin else "inconclusive"


def _check(margin: float) -> None:
    if not 0 < margin < math.inf:
        msg = f"margin {margin}: give the largest loss that is accepted, above 0"
        raise ValueError(msg)


def _z(probability: float) -> float:
    return float(special.ndtri(probability))
