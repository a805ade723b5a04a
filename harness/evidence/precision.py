"""Whether a target was timed as well as the policy's profile asks; a run under `--budget` may have been cut short.

A gate that passed on such times is not decided for a release: its interval is honest, but the evidence is less than
was asked for. One that failed has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.judge.gates import rests_on_timing
from harness.judge.statistics import t_quantile
from harness.judge.stopping import half_width, percent, rounds
from harness.judge.timing import pair_ratios
from harness.record.figure import Source
from harness.record.gates import GateResult, Outcome
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.record.timing import StoppingRule
from harness.runs.profile import Profile

#: Normal quantile of a two-sided 95 % interval.
_Z_95 = 1.959964


def held_to_profile(
    results: Sequence[GateResult], targets: Sequence[TargetRecord], profile: Profile
) -> tuple[GateResult, ...]:
    """The same results; those that passed on times of less precision than the profile's become inconclusive.

    Args:
        results: of the gates.
        targets: of the run.
        profile: the policy's.
    """
    short = {target.name: why for target in targets if (why := cut_short(target, profile))}
    return tuple(
        replace(result, outcome=Outcome.INCONCLUSIVE, detail=short[result.target])
        if result.target in short and result.outcome is Outcome.PASS and _timed(result)
        else result
        for result in results
    )


def with_cuts_noted(record: RunRecord, profile: Profile) -> RunRecord:
    """The same run with a note for each target that was cut short: also where no gate rests on its times."""
    found = [f"{target.name}: {why}" for target in record.targets if (why := cut_short(target, profile))]
    return replace(record, notes=tuple(dict.fromkeys((*record.notes, *found))))


def cut_short(target: TargetRecord, profile: Profile) -> str:
    """What a target's timing lacks of the profile's precision and what would settle it, one line; "" for nothing.

    Times that reached the profile's cap are as good as it takes them, whatever their interval.
    """
    if not target.blocks or target.source is not Source.MEASURED:
        return ""
    kept = target.stopping
    rule = StoppingRule(
        profile.min_pairs // 2 if kept is None else kept.first_stage, profile.half_width, profile.max_pairs // 2
    )
    logs = rounds({pair: math.log(ratio) for pair, ratio in pair_ratios(target.blocks).items()})
    wide = half_width(logs, rule.first_stage)
    if wide <= rule.goal * (1 + 1e-9) or len(logs) >= rule.most_rounds:
        return ""
    got = f"±{percent(wide)}" if math.isfinite(wide) else "no interval"
    budget = None if kept is None else kept.budget_s
    by = f"by --budget {budget:g} s" if budget is not None else "before its end"
    more = 2 * (_rounds_in_all(wide, len(logs), rule) - len(logs))
    return (
        f"timing was cut short {by}: {got} after {2 * len(logs)} pairs, profile {profile.name} asks for "
        f"±{percent(rule.goal)}; about {more} more pairs: run it without a budget"
    )


def _rounds_in_all(wide: float, count: int, rule: StoppingRule) -> int:
    """Rounds that the goal takes at the spread seen: the interval's own t quantile is out, that of many rounds in."""
    if not math.isfinite(wide):
        return max(rule.first_stage, count + 1)
    spread = wide * math.sqrt(count) / t_quantile(count)
    needed = math.ceil((_Z_95 * spread / rule.goal) ** 2)
    return min(max(needed, rule.first_stage, count + 1), rule.most_rounds)


def _timed(result: GateResult) -> bool:
    return result.source is Source.MEASURED and rests_on_timing(result.metric)
