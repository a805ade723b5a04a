"""`--dry-run`: what a run would do and about how long it would take, without touching a board."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.runs.advice import plan_notes
from harness.runs.plan import Plan
from harness.runs.samples import feeds
from harness.runs.trial import try_metrics

#: How many inferences on this host the estimate rests on.
_TRIALS = 5
#: Starting an agent, loading two networks, judging and publishing, s: what a run costs beside inference.
_FIXED_S = 5.0


@dataclass(frozen=True, slots=True)
class TargetEstimate:
    """One target's share, s; a foreign board's speed is unknown, so its inference counts as on this host."""

    name: str
    infer_s: float
    time_s_least: float
    time_s_most: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """About how long a run takes.

    Args:
        batch_ms: one batch of the float network on this host, ms.
        quantize_s: calibrating and quantizing for all environments.
        notes: what the samples and the metrics say beforehand, a line each.
    """

    batch_ms: float
    quantize_s: float
    targets: tuple[TargetEstimate, ...]
    notes: tuple[str, ...] = ()

    @property
    def total_s(self) -> tuple[float, float]:
        """Least and most: timed parts never overlap on one machine, the rest shares its cores."""
        shared = self.quantize_s + _FIXED_S + sum(target.infer_s for target in self.targets)
        return (
            shared + sum(target.time_s_least for target in self.targets),
            shared + sum(target.time_s_most for target in self.targets),
        )


def estimate_plan(plan: Plan) -> Estimate:
    """Time a few float inferences on this host and scale them to the plan; the job's metrics are tried on a few.

    Raises:
        UserError: a metric or the postprocessing fails.
    """
    notes = plan_notes(plan, try_metrics(plan))
    session = onnxruntime.InferenceSession(plan.job.model, providers=["CPUExecutionProvider"])
    batch = plan.data.read(plan.samples[:1])
    part, _ = next(feeds(batch.inputs, plan.fixed_batch))
    feed = part | plan.zero_state()
    session.run(None, feed)
    times = []
    for _ in range(_TRIALS):
        begin = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - begin)
    one_s = float(np.median(times))
    batches = -(-len(plan.samples) // (plan.fixed_batch or 1))
    calibration = -(-len(plan.split.calibration) // (plan.fixed_batch or 1))
    profile = plan.profile
    targets = []
    for target in plan.targets:
        block_s = max(profile.block_s, profile.block_iterations * one_s)
        least = 2 * (profile.warm_up_s + profile.min_pairs * block_s) if target.timed else 0.0
        most = 2 * (profile.warm_up_cap_s + profile.max_pairs * block_s) if target.timed else 0.0
        if plan.budget_s is not None:
            least, most = min(least, plan.budget_s), min(most, plan.budget_s)
        targets.append(TargetEstimate(target.name, 2 * batches * one_s, least, most))
    # calibration is about two passes with statistics on; choosing the method runs a few candidates on a tenth
    quantize_s = len(plan.environments) * calibration * one_s * 4
    return Estimate(one_s * 1e3, quantize_s, tuple(targets), notes)


def plan_as_json(plan: Plan, estimate: Estimate) -> dict[str, object]:
    """The plan and its estimate as plain JSON."""
    least, most = estimate.total_s
    return {
        "job": plan.job.name,
        "model": str(plan.job.model),
        "samples": len(plan.samples),
        "calibration_samples": len(plan.split.calibration),
        "split": plan.split_name,
        "profile": plan.profile.name,
        "batch": plan.fixed_batch,
        "environments": list(plan.environments),
        "targets": [
            {
                "name": target.name,
                "board": target.board,
                "environment": target.environment,
                "via": target.via.kind,
                "timed": target.timed,
                "infer_s": round(share.infer_s, 1),
                "time_s": [round(share.time_s_least, 1), round(share.time_s_most, 1)],
            }
            for target, share in zip(plan.targets, estimate.targets, strict=True)
        ],
        "total_s": [round(least, 1), round(most, 1)],
        "out": str(plan.out),
        "notes": list(estimate.notes),
    }


def plan_table(plan: Plan, estimate: Estimate) -> Group:
    """The plan for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "board", "rules", "via", "samples", "timed", "about"):
        table.add_column(column, no_wrap=column != "timed")
    profile = plan.profile
    for target, share in zip(plan.targets, estimate.targets, strict=True):
        timed = f"{profile.min_pairs}-{profile.max_pairs} pairs of {profile.block_s:g} s" if target.timed else "no"
        about = f"{share.infer_s + share.time_s_least:.0f}-{share.infer_s + share.time_s_most:.0f} s"
        table.add_row(
            target.name,
            target.board,
            target.environment,
            target.via.kind,
            str(len(plan.samples)),
            timed,
            about if target.timed else f"{share.infer_s:.0f} s",
        )
    least, most = estimate.total_s
    head = Text(
        f"{plan.job.name}: {plan.job.model.name}, calibrate on {len(plan.split.calibration)}, "
        f"quantize for {', '.join(plan.environments)}, profile {profile.name}"
    )
    tail = Text(
        f"about {least:.0f} to {most:.0f} s in all, from one batch at {estimate.batch_ms:.2f} ms on this host; "
        f"would publish in {plan.out}\nnothing was sent or run on a board"
    )
    notes = [Text(note) for note in estimate.notes]
    return Group(head, table, *notes, tail)
