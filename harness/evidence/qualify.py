"""`quantrig qualify`: every job of a policy on its targets, the verdict, the decision page and the signed bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from platformdirs import user_config_path

from harness.errors import ExitCode, UserError
from harness.evidence.bundle import BundledRun, write_bundle
from harness.evidence.gather import gather_run
from harness.evidence.job_file import changed_fields
from harness.evidence.keys import PRIVATE_KEY, fingerprint, load_private, make_key
from harness.evidence.page import decision_html, overall
from harness.evidence.policy import Policy, PolicyJob
from harness.evidence.precision import held_to_profile, with_cuts_noted
from harness.evidence.verify import verify_bundle
from harness.job import Job
from harness.judge.gates import decide_gates
from harness.judge.gates_file import gates_as_json, must_hold_somewhere
from harness.judge.gates_values import Gate, Place
from harness.judge.verdict import Verdict, exit_code, worst
from harness.record.run import RunRecord
from harness.report.files import write_files
from harness.report.runjson import load
from harness.runs.engine import start
from harness.runs.observer import Observer
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import Profile, find_profile
from harness.runs.trial import try_metrics
from harness.store import Store
from harness.targets.lab import LAB_FILE, find_lab, load_lab

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Qualified:
    """What came of a policy.

    Args:
        verdict: of all gates.
        records: of the runs.
        page: decision.html.
        bundle: the signed file.
        signer: fingerprint of its key.
    """

    verdict: Verdict
    records: tuple[RunRecord, ...]
    page: Path
    bundle: Path
    signer: str

    @property
    def exit_code(self) -> ExitCode:
        """The worst of gates and boards."""
        return worst(exit_code(record) for record in self.records)


def plan_policy(policy: Policy, out: Path) -> list[tuple[PolicyJob, Plan]]:
    """Check all that can be checked before a board is touched.

    Raises:
        UserError: a job, the lab, a target or a gate that will not do.
    """
    profile = find_profile(policy.profile)
    plans = []
    asked: dict[str, Gate] = {}
    held: set[str] = set()
    for entry in policy.jobs:
        job = policy.job(entry)
        lab = load_lab(_lab_of(policy, job))
        names = entry.targets or policy.targets
        folder = out / "runs" / job.name
        plan = make_plan(job, lab, names, profile=profile, split_name=policy.split, out=folder)
        held |= _held(policy, job, plan)
        try_metrics(plan)  # a later job's broken metric must not wait for the runs of those before it
        asked |= {gate.name: gate for gate in policy.gates(entry.position, job.metrics)}
        plans.append((entry, plan))
    must_hold_somewhere(tuple(asked.values()), held, str(policy.path))
    names_of = [plan.job.name for _, plan in plans]
    for name in names_of:
        if names_of.count(name) > 1:
            raise UserError(f"{policy.path}: two jobs are called {name}; give one of them another `name:`")
    return plans


def _lab_of(policy: Policy, job: Job) -> Path:
    """The lab named, else the one beside the policy, else the one that a run of the job would take."""
    beside = policy.path.parent / LAB_FILE
    return find_lab(policy.lab or (beside if beside.is_file() else None), job.path)


def _held(policy: Policy, job: Job, plan: Plan) -> set[str]:
    """Names of the gates that hold on at least one target of a job; every target must be asked something."""
    held: set[str] = set()
    for target in plan.targets:
        place = Place(target.entry_name, target.board, target.environment, target.tags)
        here = {gate.name for gate in job.gates if gate.on(place) is not None}
        if not here:
            raise UserError(f"{policy.path}: {job.name}: nothing is asked of {target.name}; leave it out or add a gate")
        held |= here
    return held


def run_policy(
    plans: Sequence[tuple[PolicyJob, Plan]], store: Store, observer: Observer
) -> list[tuple[int, RunRecord]]:
    """Run every job, one after the other: two of them may want the same board.

    Raises:
        Interrupted: Ctrl-C; `quantrig resume` goes on with the run, `qualify --runs` judges it.
        UserError: bad input.
    """
    done = []
    for entry, plan in plans:
        observer.message("host", f"{plan.job.name}: run {plan.run_id} on {len(plan.targets)} targets")
        record = start(plan, store, observer).record
        gates = held_to_profile(record.gates, record.targets, plan.profile)
        done.append((entry.position, with_cuts_noted(replace(record, gates=gates), plan.profile)))
    return done


def judge_runs(policy: Policy, run_ids: Sequence[str], store: Store) -> list[tuple[int, RunRecord, Path]]:
    """Existing runs under the policy's gates.

    Returns:
        (position of the job in the policy, record with the gates decided anew, folder) for each run.

    Raises:
        UserError: a run that is not of the policy's jobs, a job without a run, a target that was not run.
    """
    jobs = {(job := policy.job(entry)).name: (entry, job) for entry in policy.jobs}
    judged: list[tuple[int, RunRecord, Path]] = []
    for run_id in run_ids:
        summary = store.run(run_id)
        path = summary.out / "run.json"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); `quantrig resume {summary.run_id}`") from None
        record = load(text, str(path))
        if record.run_id != summary.run_id:
            raise UserError(f"{path}: holds run {record.run_id}, not {summary.run_id}: its folder was used again")
        if record.job_name not in jobs:
            raise UserError(f"run {record.run_id} is of job {record.job_name}; {policy.path} has {', '.join(jobs)}")
        entry, job = jobs[record.job_name]
        _same_job(record, job)
        if (record.profile, record.split) != (policy.profile, policy.split):
            asked = f"{policy.profile} on the {policy.split} split"
            said = f"run {record.run_id} was measured {record.profile} on the {record.split} split"
            raise UserError(f"{said}; {policy.path} asks for {asked}: run it again, or change the policy")
        judged.append((entry.position, judged_again(record, job.gates, find_profile(policy.profile)), summary.out))
        there = {target.entry_name for target in record.targets}
        for name in entry.targets or policy.targets or ():
            if name not in there:
                raise UserError(f"run {record.run_id} has no target {name}, which {policy.path} names; run it there")
    for name, (entry, _) in jobs.items():
        if not any(position == entry.position for position, _, _ in judged):
            raise UserError(f"{policy.path}: none of the runs is of job {name}; name one, or leave out --runs")
    if len({record.run_id for _, record, _ in judged}) < len(judged):
        raise UserError("--runs: a run is named twice; name each once")
    return judged


def _same_job(record: RunRecord, job: Job) -> None:
    """Refuse a run whose job file says other things now: the bundle would show what was not measured."""
    changed = changed_fields(record.job, job)
    if changed:
        says = f"run {record.run_id}: {job.path} was changed since ({', '.join(changed)})"
        raise UserError(f"{says}; run it again, or put the file back as it was")


def judged_again(record: RunRecord, gates: Sequence[Gate], profile: Profile) -> RunRecord:
    """The same run under other gates, held to the precision of a profile."""
    decided = decide_gates(gates, record.targets, record.figures)
    return with_cuts_noted(
        replace(
            record,
            job={**record.job, "gates": gates_as_json(gates)},
            gates=held_to_profile(decided, record.targets, profile),
        ),
        profile,
    )


def publish_decision(
    policy: Policy,
    runs: Sequence[tuple[int, RunRecord, Path]],
    store: Store,
    *,
    out: Path,
    key: Ed25519PrivateKey,
    say: Say = lambda _: None,
) -> Qualified:
    """Write the decision page and the bundle.

    Args:
        policy: that was asked.
        runs: (position of the job, record with its gates decided, folder).
        store: knows the digests of outputs.
        out: folder for both files.
        key: signs.
        say: told of each step.

    Raises:
        UserError: evidence is missing, or a place cannot be written; nothing half is left.
    """
    records = tuple(record for _, record, _ in runs)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    signer = fingerprint(key.public_key())
    verdict = overall(records)
    page = decision_html(policy, records, created, signer)
    bundled = []
    for position, record, folder in runs:
        say(f"gather {record.job_name}")
        gathered = gather_run(record, folder, store, outputs=policy.outputs == "include")
        bundled.append(BundledRun(record, position, gathered))
    say("sign and write the bundle")
    bundle = out / f"{policy.name}.bundle.zip"
    unchecked = bundle.with_name(f".{bundle.name}.unchecked")
    write_bundle(
        unchecked,
        policy_name=policy.name,
        policy_text=policy.path.read_bytes(),
        page=page.encode(),
        verdict=verdict.outcome.value if verdict.outcome is not None else "none",
        runs=bundled,
        key=key,
        created=created,
    )
    say("verify the bundle")
    _deliver(unchecked, bundle, key)
    write_files({out / "decision.html": page})
    return Qualified(verdict, records, out / "decision.html", bundle, signer)


def _deliver(unchecked: Path, bundle: Path, key: Ed25519PrivateKey) -> None:
    """Put a bundle into its place once it verifies: a run of an older version may state what no one can bear out now.

    Raises:
        UserError: it does not; it is gone then.
    """
    try:
        found = verify_bundle(unchecked, key.public_key())
        if not found.intact:
            why = (*found.touched, *found.differences)[0]
            raise UserError(f"{bundle}: not written, it would not verify ({why}); run the job again with this version")
        unchecked.replace(bundle)
    finally:
        unchecked.unlink(missing_ok=True)


def signing_key(place: Path | None, say: Say) -> Ed25519PrivateKey:
    """The key that signs: the one named, else the user's own, which is made when it is first needed.

    Raises:
        UserError: no usable key there.
    """
    if place is not None:
        return load_private(place)
    folder = user_config_path("quantrig") / "release-key"
    if not (folder / PRIVATE_KEY).exists():
        make_key(folder)
        say(f"made a signing key of your own in {folder}; give its public half to whoever verifies")
    return load_private(folder)


def out_folder(policy: Policy, named: Path | None) -> Path:
    """Where page, bundle and runs go."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return (named or policy.out or Path("reports") / f"{stamp}-{policy.name}").absolute()
