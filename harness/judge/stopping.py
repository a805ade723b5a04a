"""When a target is timed enough: Stein's two-stage rule, whose interval keeps its coverage although it stops early.

The unit is an ABBA round: two pairs of blocks, one in each order (F I I F), so that neither a drift nor the order
weighs on it, and disturbances that outlast a pair mostly fall into one round. A first stage of n0 rounds gives s, the
standard deviation of their log-ratios. From s alone follows how many rounds the goal needs,
n = ceil((t_{.975,n0-1} s / goal)^2), at least n0 and at most the cap; and the interval of all n rounds is
mean +- t_{.975,n0-1} s / sqrt(n), still with the first stage's s. Under normality the mean is independent of s, so the
coverage is exactly 95 % (C. Stein, Annals of Mathematical Statistics 16, 1945). A rule that looks at the interval after
every pair and stops when it happens to be narrow has no such property.

Real disturbances also come after the first stage. So the spread of all rounds has to agree: while Student's interval
from all of them is wider than the goal, timing goes on, and the wider of the two intervals is the one that is given.
That never narrows Stein's: how many rounds are taken still depends on spreads alone, of which the mean is independent,
so |mean| sqrt(n) / s follows the same t distribution whatever n comes to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.record.timing import StoppingRule

#: A target stops trying when this many pairs more than needed were taken: the larger of a number and a share of the
#: needed ones. More than a fifth of its pairs were rejected then, and it counts as throttled (docs/results.md).
_SPARE_PAIRS, _SPARE_SHARE = 5, 0.25


class Outcome(StrEnum):
    """Why timing ended."""

    REACHED = "reached"  # the interval is as narrow as the goal
    CAP = "cap"  # the cap came first
    BUDGET = "budget"  # the time was over first
    DISTURBED = "disturbed"  # too many pairs were rejected
    OPEN = "open"  # it goes on


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule says of the pairs so far.

    Args:
        outcome: whether to go on, and why not.
        pairs: how many count: two of each round.
        rejected: how many were taken and do not count.
        half_width: half the 95 % interval of ln(ratio); infinite with fewer than two rounds.
        rule: which said so.
    """

    outcome: Outcome
    pairs: int
    rejected: int
    half_width: float
    rule: StoppingRule

    @property
    def text(self) -> str:
        """For the reader: "reached ±1.5 % after 23 pairs", "cap of 80 pairs reached: ±2.4 %, asked for ±1.5 %"."""
        got = _reach_text(self.half_width)
        asked = f"±{percent(self.rule.goal)}"
        counted = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        rejected = f", {self.rejected} rejected" if self.rejected else ""
        match self.outcome:
            case Outcome.REACHED:
                return f"reached {got if self.half_width < self.rule.goal else asked} after {counted}{rejected}"
            case Outcome.CAP:
                return f"cap of {counted} reached: {got}, asked for {asked}{rejected}"
            case Outcome.BUDGET:
                return f"budget of {self.rule.budget_s or 0:g} s bought {counted}: {got}, asked for {asked}{rejected}"
            case Outcome.DISTURBED:
                return f"stopped after {counted}{rejected}: {got}, asked for {asked}"
        return f"unfinished after {counted}{rejected}: {got}, asked for {asked}"


def percent(half_width: float) -> str:
    """A half-width of ln(ratio) as a reader takes it: 0.0149 → "1.5 %"; two significant digits."""
    return f"{100 * math.expm1(half_width):.2g} %"


def _reach_text(half_width: float) -> str:
    if not math.isfinite(half_width):
        return "no interval"
    return f"±{percent(half_width)}" if half_width < 0.5 else f"within a factor of {math.exp(half_width):.2g}"


def rounds(pairs: Mapping[int, float]) -> list[float]:
    """The log-ratios of the ABBA rounds: the mean of a pair in either order, in the order they were taken.

    A pair whose counterpart was rejected goes with the next one of the other order; one without any is left over.

    Args:
        pairs: index of a pair that counts → its log-ratio. Even pairs ran float first, odd ones int8 first.
    """
    ordered = sorted(pairs)
    even = [pairs[pair] for pair in ordered if pair % 2 == 0]
    odd = [pairs[pair] for pair in ordered if pair % 2 == 1]
    return [(one + other) / 2 for one, other in zip(even, odd, strict=False)]


def rounds_needed(rule: StoppingRule, log_ratios: Sequence[float]) -> int:
    """How many rounds the goal takes.

    The first stage while that is not full, then what its spread asks for, then what the spread of all asks for.

    Args:
        rule: first stage, goal and cap.
        log_ratios: of the rounds that count, in the order they were taken.
    """
    if len(log_ratios) < rule.first_stage:
        return min(rule.first_stage, rule.most_rounds)
    needed = _rounds_for(rule, _reach(log_ratios[: rule.first_stage]))
    if len(log_ratios) >= needed:
        needed = max(needed, _rounds_for(rule, _reach(log_ratios)))
    return min(max(needed, rule.first_stage), rule.most_rounds)


def half_width(log_ratios: Sequence[float], first_stage: int) -> float:
    """Half the 95 % interval of ln(ratio): the wider of Stein's and Student's; infinite with fewer than two rounds.

    Args:
        log_ratios: of the rounds that count, in order.
        first_stage: n0; where fewer rounds are there, the two are one.
    """
    if len(log_ratios) < 2:
        return math.inf
    return max(_reach(log_ratios[:first_stage]), _reach(log_ratios)) / math.sqrt(len(log_ratios))


def decide(
    rule: StoppingRule, log_ratios: Sequence[float], taken: int, rejected: int = 0, *, time_is_over: bool = False
) -> Decision:
    """Whether to go on after these rounds.

    Args:
        rule: the target's.
        log_ratios: of the rounds that count, in order.
        taken: pairs that were taken, rejected ones included.
        rejected: how many of them do not count.
        time_is_over: the budget has no room for another pair.
    """
    done, wide = len(log_ratios), half_width(log_ratios, rule.first_stage)
    needed = rounds_needed(rule, log_ratios)
    narrow = wide <= rule.goal * (1 + 1e-9)
    if done >= needed:
        outcome = Outcome.REACHED if narrow else Outcome.CAP
    elif time_is_over:  # in the middle of the first stage, too: time said when to end, and the interval is Student's
        outcome = Outcome.REACHED if narrow else Outcome.BUDGET
    elif taken >= 2 * needed + max(_SPARE_PAIRS, math.ceil(2 * _SPARE_SHARE * needed)):
        outcome = Outcome.DISTURBED
    else:
        outcome = Outcome.OPEN
    return Decision(outcome, 2 * done, rejected, wide, rule)


def _rounds_for(rule: StoppingRule, reach: float) -> int:
    return math.ceil(min((reach / rule.goal) ** 2, 1e9) - 1e-9) if rule.goal > 0 else rule.most_rounds


def _reach(first: Sequence[float]) -> float:
    """The t quantile times the spread: half the interval of a single pair."""
    from harness.judge.statistics import t_quantile  # scipy takes half a second: loaded while the boards work

    count = len(first)
    centre = math.fsum(first) / count
    spread = math.sqrt(math.fsum((one - centre) ** 2 for one in first) / (count - 1))
    return t_quantile(count) * spread
