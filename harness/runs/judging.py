"""The end of a run: its figures and gates, out of what the boards returned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from harness.errors import UserError
from harness.host import host_environment
from harness.judge.gates_units import LSB
from harness.record.gates import GateResult
from harness.record.run import FunctionRecord, Revision, RunRecord
from harness.record.target import TargetRecord
from harness.runs.advice import plan_notes
from harness.runs.observer import Observer
from harness.runs.plan import Plan
from harness.runs.sources import function_records
from harness.runs.trial import Trial
from harness.store import Store


def now() -> str:
    """This moment in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load_judges() -> None:
    """Load what only the end of a run needs (scipy, templates) while the boards work and this thread would wait."""
    import harness.judge.gates
    import harness.report.publish
    import harness.runs.evidence  # noqa: F401


def judge_run(plan: Plan, store: Store, observer: Observer, records: Sequence[TargetRecord], trial: Trial) -> RunRecord:
    """The whole record of a run; each target's is kept in the journal as it was judged.

    Raises:
        UserError: a metric or the labels cannot be used.
    """
    from harness.judge.gates import decide_gates
    from harness.runs.evidence import figures_of

    observer.progress("host", "judge", 0, None)
    summary = store.run(plan.run_id)
    revision = summary.request.get("revision")
    reader = plan.reader()
    functions = function_records(plan.job)
    try:
        figures, judged = figures_of(plan, store, records, reader)
    except UserError as error:
        again = f"mend it and `quantrig resume {plan.run_id}`: nothing is measured again"
        raise UserError(f"{error}; {again}") from error
    if any(gate.metric == LSB for gate in plan.job.gates):
        from harness.runs.reference import reference_figures

        observer.progress("host", "compare with the reference", 0, None)
        figures += reference_figures(plan, store, judged, reader)
    for record in judged:
        store.save_target(plan.run_id, record)
    observer.finished("host", "done")
    gates = decide_gates(plan.job.gates, judged, figures)
    return RunRecord(
        run_id=plan.run_id,
        job_name=plan.job.name,
        job=plan.job.as_json(),
        model_digest=summary.model_digest,
        profile=plan.profile.name,
        split=plan.split_name,
        samples=len(plan.samples),
        calibration_samples=len(plan.split.calibration),
        started=summary.started,
        finished=now(),
        host=host_environment(),
        targets=judged,
        figures=figures,
        notes=_run_notes(plan, trial, gates),
        gates=gates,
        revision=None if revision is None else Revision(**revision),
        functions=functions,
    )


def edited(before: Sequence[FunctionRecord], record: RunRecord) -> tuple[str, ...]:
    """Files of the job's functions that somebody changed while the run went on."""
    old = {file.path: file.sha256 for one in before for file in one.files}
    new = {file.path: file.sha256 for one in record.functions for file in one.files}
    changed = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    again = f"`quantrig resume {record.run_id}` judges it by the files as they are"
    return (f"{', '.join(changed)} changed while the run went on: {again}",) if changed else ()


def _run_notes(plan: Plan, trial: Trial, gates: Sequence[GateResult]) -> tuple[str, ...]:
    few = plan_notes(plan, trial, decided=gates)
    if plan.split_name == "all" and plan.job.quantized is None:
        return (
            "--split all: accuracy includes the calibration samples; use it to compare with published figures only",
            *few,
        )
    return few
