"""What a bundle states, held against what its raw data say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from harness.evidence.precision import held_to_profile
from harness.evidence.recompute import Recomputed
from harness.judge.gates import decide_gates
from harness.judge.gates_values import Gate
from harness.record.figure import Figure
from harness.record.gates import GateResult
from harness.record.run import RunRecord
from harness.runs.profile import Profile

#: Sums over thousands of numbers are grouped differently by other processors and versions of numpy; 1 part in 10^9 is
#: far below any digit that is published.
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """What came of it.

    Args:
        recomputed: figures that were computed again and agree.
        kept: (figure, why) of those among them that rest on what the run kept of its outputs, not on the outputs.
        differences: one line each: a figure or a gate that the raw data do not bear out.
        unknown: (figure, why it could not be computed again), of figures with a value.
        gates: as the recomputed figures decide them.
    """

    recomputed: int
    differences: tuple[str, ...]
    unknown: tuple[tuple[str, str], ...]
    gates: tuple[GateResult, ...]
    kept: tuple[tuple[str, str], ...] = ()


def compare_run(
    record: RunRecord, found: Recomputed, gates: Sequence[Gate], profile: Profile, *, notes: bool
) -> Compared:
    """A run's figures and gates against the raw data.

    Args:
        record: as run.json states it.
        found: from `recompute_run`.
        gates: that were decided.
        profile: the policy's, whose precision is asked for.
        notes: hold the figures' notes against each other too; another version words them otherwise.
    """
    differences = list(found.faults)
    unknown: list[tuple[str, str]] = []
    believed: list[Figure] = []
    seen: set[tuple[str, str, str]] = set()
    kept: list[tuple[str, str]] = []
    agreed = 0
    for stated in record.figures:
        key = (stated.target, stated.network, stated.metric)
        name = f"{stated.target}: {stated.network} {stated.metric}"
        if key in seen:
            differences.append(f"{name} is stated twice")
            continue
        seen.add(key)
        fresh = found.figures.get(key)
        if key in found.reasons or (fresh is None and found.faults):
            believed.append(stated)
            if stated.value is not None:
                unknown.append((name, found.reasons.get(key, "the raw data cannot be used")))
            continue
        if fresh is None:
            differences.append(f"{name}: the raw data give no such figure")
            continue
        believed.append(fresh)
        problem = _figures_differ(stated, fresh, notes=notes)
        if problem:
            differences.append(f"{name}: {problem}")
        elif stated.value is not None:
            agreed += 1
            if key in found.kept:
                kept.append((name, found.kept[key]))
    missing = [key for key, figure in found.figures.items() if key not in seen and figure.value is not None]
    if not found.faults:
        differences += [f"{target}: {network} {metric} is missing from run.json" for target, network, metric in missing]
    decided = held_to_profile(decide_gates(gates, record.targets, believed), record.targets, profile)
    differences += _gates_differ(record.gates, decided, notes=notes)
    return Compared(agreed, tuple(differences), tuple(unknown), decided, tuple(kept))


def _figures_differ(stated: Figure, fresh: Figure, *, notes: bool) -> str:
    for name, first, second in (
        ("value", stated.value, fresh.value),
        ("lower end", stated.ci_low, fresh.ci_low),
        ("upper end", stated.ci_high, fresh.ci_high),
    ):
        if not close(first, second):
            what = "" if name == "value" else f"{name} "
            return f"{what}stated as {first!r}, the raw data give {second!r}"
    for name in ("n", "unit", "source", "device", "board", "environment"):
        first, second = getattr(stated, name), getattr(fresh, name)
        # the unit of a function of the job's own is not known without it
        if first != second and not (name == "unit" and second == ""):
            return f"{name} stated as {first!r}, the raw data give {second!r}"
    if notes and stated.note != fresh.note:
        return f"its note is {stated.note!r}, the raw data give {fresh.note!r}"
    return ""


def close(first: float | None, second: float | None) -> bool:
    """Equal within `TOLERANCE`; unknown only equals unknown."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-12) or (math.isnan(first) and math.isnan(second))


def _gates_differ(stated: Sequence[GateResult], decided: Sequence[GateResult], *, notes: bool) -> list[str]:
    fresh = {(one.target, one.gate): one for one in decided}
    problems = []
    for result in stated:
        name = f"{result.target}: gate {result.gate}"
        other = fresh.pop((result.target, result.gate), None)
        if other is None:
            problems.append(f"{name}: the policy asks for no such gate there, or it is stated twice")
        elif result.outcome is not other.outcome:
            problems.append(f"{name}: stated as {result.outcome}, the figures say {other.outcome}")
        elif not _same_evidence(result, other) or (notes and result.claim != other.claim):
            problems.append(f"{name}: its evidence is not what the raw data give")
    problems += [f"{target}: gate {gate} is missing from run.json" for target, gate in fresh]
    return problems


def _same_evidence(first: GateResult, second: GateResult) -> bool:
    numbers = ("threshold", "value", "ci_low", "ci_high")
    same = all(close(getattr(first, name), getattr(second, name)) for name in numbers)
    others = ("metric", "network", "rule", "unit", "n", "source")
    return same and all(getattr(first, name) == getattr(second, name) for name in others)
