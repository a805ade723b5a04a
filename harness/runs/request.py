"""What a run was asked for, as the journal keeps it, and the plan that it makes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.job import Job, job_from_mapping, load_job
from harness.runs.networks import digest_of
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import find_profile
from harness.runs.revision import revision_of
from harness.store.journal import RunSummary
from harness.targets.lab import load_lab


def request_of(plan: Plan) -> dict[str, object]:
    """What the journal keeps of a plan, as plain JSON."""
    revision = revision_of(plan.job.path.parent)
    return {
        "job": plan.job.as_json(),
        "job_base": str(plan.job.path.parent.absolute()),
        "lab": str(plan.lab.path.absolute()),
        "targets": list(dict.fromkeys(target.entry_name for target in plan.targets)),
        "profile": plan.profile.name,
        "budget_s": plan.budget_s,
        "split": plan.split_name,
        "data_digest": plan.data.digest(),
        "revision": None if revision is None else asdict(revision),
    }


def plan_of(summary: RunSummary) -> Plan:
    """The plan of a run that began earlier.

    Metrics, postprocessing and gates are read from the job file again: what was measured does not depend on them.

    Raises:
        UserError: its network or data changed since.
    """
    request = summary.request
    job = _job_of(request)
    if digest_of(job.model) != summary.model_digest:
        message = f"{job.model} changed since run {summary.run_id}; start a new run with `quantrig run`"
        raise UserError(message)
    plan = make_plan(
        job,
        load_lab(Path(request["lab"])),
        request["targets"],
        profile=find_profile(request["profile"]),
        split_name=request["split"],
        out=summary.out,
        run_id=summary.run_id,
        budget_s=request.get("budget_s"),
    )
    if plan.data.digest() != request["data_digest"]:
        message = f"the data of run {summary.run_id} changed since; start a new run with `quantrig run`"
        raise UserError(message)
    return plan


def _job_of(request: Mapping[str, Any]) -> Job:
    stored = job_from_mapping(request["job"], Path(request["job_base"]))
    if not stored.path.is_file():
        return stored
    today = load_job(stored.path)
    # a policy may have asked more than the job's file does
    gates = {gate.name: gate for gate in (*stored.gates, *today.gates)}
    return replace(stored, metrics=today.metrics, postprocess=today.postprocess, gates=tuple(gates.values()))
