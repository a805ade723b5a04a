"""The whole line: plan → quantize → targets in parallel → judge → publish, journaled so that it can be resumed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ExitCode, UserError
from harness.job import Job
from harness.judge.comparison import Comparison
from harness.judge.verdict import exit_code
from harness.record.figure import Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.runs.interrupt import Interrupted, stop_on_signals
from harness.runs.judging import edited, judge_run, now
from harness.runs.networks import digest_of
from harness.runs.observer import Observer, Silent
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import Profile
from harness.runs.request import plan_of, request_of
from harness.runs.sources import function_records
from harness.runs.trial import Trial, try_metrics
from harness.runs.work import do_targets
from harness.store import Store
from harness.targets.lab import Lab

if TYPE_CHECKING:
    from harness.report.publish import Published


@dataclass(frozen=True, slots=True)
class Run:
    """A finished (or partly failed) run.

    Args:
        record: everything, as in run.json.
        published: the files of the run's folder.
    """

    record: RunRecord
    published: Published

    @property
    def exit_code(self) -> ExitCode:
        """What the command returns."""
        return exit_code(self.record)

    def comparison(self, target: str) -> Comparison:
        """Float against int8 on one target.

        Raises:
            KeyError: the run has no such target.
        """
        return Comparison.of(self.record, target)


def start(plan: Plan, store: Store, observer: Observer | None = None, stop: threading.Event | None = None) -> Run:
    """Execute a plan from its beginning; `stop` ends it from outside, as a signal does.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; what is finished is kept.
        UserError: bad input.
    """
    digest = digest_of(plan.job.model)
    _make_folder(plan, observer or Silent())
    store.create_run(
        plan.run_id,
        job_name=plan.job.name,
        started=now(),
        out=plan.out,
        model_digest=digest,
        request=request_of(plan),
    )
    for target in plan.targets:
        source = Source.MEASURED if target.timed else Source.EMULATED
        store.save_target(
            plan.run_id,
            TargetRecord(
                target.name,
                target.board,
                target.environment,
                target.via.kind,
                source,
                "pending",
                tags=target.tags,
                entry=target.entry,
            ),
        )
    return _execute(plan, store, observer or Silent(), stop or threading.Event())


def resume(run_id: str, store: Store, observer: Observer | None = None, stop: threading.Event | None = None) -> Run:
    """Go on with a run: only what is missing or failed is done again.

    Metrics, postprocessing and gates are read from the job file again: what was measured does not depend on them.

    Raises:
        UserError: no such run, or its network or data changed since.
        Interrupted: Ctrl-C or SIGTERM.
    """
    summary = store.run(run_id)
    plan = plan_of(summary)
    store.set_run_status(summary.run_id, "running")
    return _execute(plan, store, observer or Silent(), stop or threading.Event())


def execute_job(
    job: Job,
    lab: Lab,
    store: Store,
    *,
    targets: Sequence[str] | None = None,
    profile: Profile,
    split_name: str = "validation",
    out: Path | None = None,
    observer: Observer | None = None,
    budget_s: float | None = None,
) -> Run:
    """Plan and start in one call."""
    plan = make_plan(job, lab, targets, profile=profile, split_name=split_name, out=out, budget_s=budget_s)
    return start(plan, store, observer)


def _make_folder(plan: Plan, observer: Observer) -> None:
    """The run's folder, before anything is noted or sent."""
    try:
        if (plan.out / "run.json").exists():
            observer.message("host", f"{plan.out} holds an earlier run's report, which this run replaces")
        plan.out.mkdir(parents=True, exist_ok=True)
        (plan.out / "artifacts").mkdir(exist_ok=True)
    except OSError as error:
        message = f"{plan.out}: the run's folder cannot be made there ({error.strerror}); choose another --out"
        raise UserError(message) from error


def _execute(plan: Plan, store: Store, observer: Observer, stop: threading.Event) -> Run:
    with stop_on_signals(stop):
        try:
            functions = function_records(plan.job)
            trial = _tried(plan, observer, stop)
            records = do_targets(plan, store, observer, stop)
            record = judge_run(plan, store, observer, records, trial)
            record = replace(record, notes=(*record.notes, *edited(functions, record)))
            store.save_figures(plan.run_id, record.figures)
            published = _publish(record, plan.out)
        except Interrupted:
            store.set_run_status(plan.run_id, "interrupted")
            raise Interrupted(plan.run_id) from None
        except BaseException:  # our own bugs too: no run stays "running" behind a dead process
            store.set_run_status(plan.run_id, "failed")
            raise
        good = all(target.status == "done" for target in record.targets)
        store.set_run_status(plan.run_id, "done" if good else "failed", record.finished)
    return Run(record, published)


def _tried(plan: Plan, observer: Observer, stop: threading.Event) -> Trial:
    """The job's metrics on a few samples, before a board is kept busy for figures that cannot be."""

    def going_on(tried: int, of: int) -> None:
        if stop.is_set():
            raise Interrupted(plan.run_id)
        observer.progress("host", "try the metrics", tried, of)

    trial = try_metrics(plan, going_on)
    for note in trial.notes:
        observer.message("host", note)
    observer.finished("host", "done")
    return trial


def _publish(record: RunRecord, out: Path) -> Published:
    from harness.report.publish import publish

    return publish(record, out)
