"""The whole line: plan → quantize → targets in parallel → judge → publish, journaled so that it can be resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode, UserError
from harness.host import host_environment
from harness.job import Job, job_from_mapping, load_job
from harness.judge.comparison import Comparison
from harness.judge.figure import Network, Source
from harness.judge.gates_units import LSB
from harness.judge.verdict import exit_code
from harness.record import FunctionRecord, QuantizedRecord, Revision, RunRecord, TargetRecord
from harness.runs.advice import plan_notes
from harness.runs.interrupt import Interrupted, stop_on_signals
from harness.runs.networks import NetworkFile, digest_of, network_file, quantize_for
from harness.runs.observer import Observer, Silent
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import Profile, find_profile
from harness.runs.revision import revision_of
from harness.runs.samples import SampleReader
from harness.runs.sources import function_records
from harness.runs.standin import StandIns
from harness.runs.target_task import TargetTask
from harness.runs.trial import Trial, try_metrics
from harness.store import Store
from harness.targets.lab import Lab, load_lab

if TYPE_CHECKING:
    from harness.report.publish import Published

#: How often the main thread looks for Ctrl-C while targets work, s.
_WATCH_S = 0.1


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
        started=_now(),
        out=plan.out,
        model_digest=digest,
        request=_request(plan),
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
    store.set_run_status(summary.run_id, "running")
    return _execute(plan, store, observer or Silent(), stop or threading.Event())


def _job_of(request: Mapping[str, Any]) -> Job:
    stored = job_from_mapping(request["job"], Path(request["job_base"]))
    if not stored.path.is_file():
        return stored
    today = load_job(stored.path)
    # a policy may have asked more than the job's file does
    gates = {gate.name: gate for gate in (*stored.gates, *today.gates)}
    return replace(stored, metrics=today.metrics, postprocess=today.postprocess, gates=tuple(gates.values()))


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


def _request(plan: Plan) -> dict[str, object]:
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


def _execute(plan: Plan, store: Store, observer: Observer, stop: threading.Event) -> Run:
    with stop_on_signals(stop):
        try:
            functions = function_records(plan.job)
            trial = _tried(plan, observer)
            records = _work(plan, store, observer, stop)
            record = _judge(plan, store, observer, records, trial)
            record = replace(record, notes=(*record.notes, *_edited(functions, record)))
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


def _tried(plan: Plan, observer: Observer) -> Trial:
    """The job's metrics on a few samples, before a board is kept busy for figures that cannot be."""
    observer.progress("host", "try the metrics", 0, None)
    trial = try_metrics(plan)
    for note in trial.notes:
        observer.message("host", note)
    observer.finished("host", "done")
    return trial


def _work(plan: Plan, store: Store, observer: Observer, stop: threading.Event) -> list[TargetRecord]:
    before = {record.name: record for record in store.targets(plan.run_id)}
    open_targets = [target for target in plan.targets if before[target.name].status != "done"]
    if not open_targets:
        return list(before.values())
    float_file = network_file(plan.job.model, _artifacts(plan))
    quantized = _quantize_all(plan, before, observer, stop, {target.environment for target in open_targets})
    if stop.is_set():
        raise Interrupted(plan.run_id)
    reader = _reader(plan)
    standins = StandIns(_artifacts(plan), plan.job.name, plan.job.model)
    tasks = []
    for target in open_targets:
        file, record = quantized[target.environment]
        _check_same_network(plan, before.values(), record)
        if not target.timed:  # here rather than beside a board that is being timed
            observer.progress("host", f"prepare the stand-in of {target.name}", 0, None)
            standins.of(target, file, before[target.name])
        networks = {Network.FLOAT: float_file, Network.QUANTIZED: file}
        started = replace(before[target.name], quantized=record, status="pending", error=None)
        tasks.append(TargetTask(plan, target, networks, standins, started, reader, store, observer, stop))
    if stop.is_set():
        raise Interrupted(plan.run_id)
    observer.finished("host", "done")
    _in_parallel(tasks, stop)
    return store.targets(plan.run_id)


def _check_same_network(plan: Plan, before: Iterable[TargetRecord], made: QuantizedRecord) -> None:
    """A resumed run must not join outputs and blocks of one int8 network with those of another."""
    for record in before:
        known = record.quantized
        if known is not None and known.environment == made.environment and known.digest != made.digest:
            raise UserError(
                f"the int8 network for {made.environment} is not the one that run {plan.run_id} began with; "
                "start a new run with `quantrig run`"
            )


def _reader(plan: Plan) -> SampleReader:
    return SampleReader(plan.data, plan.samples, in_one=bool(plan.job.state))


def _in_parallel(tasks: Sequence[TargetTask], stop: threading.Event) -> None:
    """Run every target on a thread; a signal cancels the calls in flight and waits for all to tidy up."""
    with ThreadPoolExecutor(max_workers=len(tasks), thread_name_prefix="target") as pool:
        futures: list[Future[TargetRecord]] = [pool.submit(task.run) for task in tasks]
        _load_judges()
        waiting = set(futures)
        cancelled = False
        while waiting:
            done, waiting = wait(waiting, timeout=_WATCH_S, return_when=FIRST_COMPLETED)
            # an error that is not the board's concerns all targets: stop them too, then report it
            if any(future.exception() is not None for future in done):
                stop.set()
            if stop.is_set() and not cancelled:
                cancelled = True
                for task in tasks:
                    task.cancel()
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, Interrupted))
    if errors:
        raise errors[0]
    if stop.is_set():
        raise Interrupted


def _artifacts(plan: Plan) -> Path:
    """The folder of networks that were made for a run."""
    folder = plan.out / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _quantize_all(
    plan: Plan,
    before: Mapping[str, TargetRecord],
    observer: Observer,
    stop: threading.Event,
    environments: set[str],
) -> dict[str, tuple[NetworkFile, QuantizedRecord]]:
    made: dict[str, tuple[NetworkFile, QuantizedRecord]] = {}
    folder = _artifacts(plan)
    for environment in plan.environments:
        if environment not in environments:
            continue
        path = folder / f"{plan.job.name}.{environment}.int8.onnx"
        known = next(
            (r.quantized for r in before.values() if r.environment == environment and r.quantized is not None), None
        )
        if known is not None and path.exists() and digest_of(path) == known.digest:
            made[environment] = (network_file(path, folder, known.disabled_optimizers), known)
            continue

        def progress(done: int, total: int, environment: str = environment) -> None:
            if stop.is_set():
                raise Interrupted(plan.run_id)
            observer.progress("host", f"calibrate for {environment}", done, total)

        observer.progress("host", f"quantize for {environment}", 0, None)
        made[environment] = quantize_for(
            plan.job,
            environment,
            plan.feeds,
            plan.split.calibration,
            out=path,
            progress=progress,
        )
        layers = made[environment][1].quantized_layers
        observer.message("host", f"quantized for {environment}: {layers} layers, {made[environment][1].method}")
    observer.finished("host", "done")
    return made


def _load_judges() -> None:
    """Load what only the end of a run needs (scipy, templates) while the boards work and this thread would wait."""
    import harness.judge.gates
    import harness.report.publish
    import harness.runs.evidence  # noqa: F401


def _publish(record: RunRecord, out: Path) -> Published:
    from harness.report.publish import publish

    return publish(record, out)


def _judge(plan: Plan, store: Store, observer: Observer, records: Sequence[TargetRecord], trial: Trial) -> RunRecord:
    from harness.judge.gates import decide_gates
    from harness.runs.evidence import figures_of

    observer.progress("host", "judge", 0, None)
    summary = store.run(plan.run_id)
    revision = summary.request.get("revision")
    reader = _reader(plan)
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
        finished=_now(),
        host=host_environment(),
        targets=judged,
        figures=figures,
        notes=_run_notes(plan, trial),
        gates=decide_gates(plan.job.gates, judged, figures),
        revision=None if revision is None else Revision(**revision),
        functions=functions,
    )


def _edited(before: Sequence[FunctionRecord], record: RunRecord) -> tuple[str, ...]:
    """Files of the job's functions that somebody changed while the run went on."""
    old = {file.path: file.sha256 for one in before for file in one.files}
    new = {file.path: file.sha256 for one in record.functions for file in one.files}
    changed = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    again = f"`quantrig resume {record.run_id}` judges it by the files as they are"
    return (f"{', '.join(changed)} changed while the run went on: {again}",) if changed else ()


def _run_notes(plan: Plan, trial: Trial) -> tuple[str, ...]:
    few = plan_notes(plan, trial, run_follows=False)
    if plan.split_name == "all" and plan.job.quantized is None:
        return (
            "--split all: accuracy includes the calibration samples; use it to compare with published figures only",
            *few,
        )
    return few


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
