"""`quantrig verify`: was a bundle touched, who signed it, and do its raw data bear out every figure and verdict?

Nothing of it is executed and nothing outside of it is asked: no network, no database, no board.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from harness._version import __version__
from harness.errors import ExitCode, UserError
from harness.evidence.compare import compare_run
from harness.evidence.container import Container
from harness.evidence.entries import GENERAL, named_digests, own_specs, source_entry, unnamed
from harness.evidence.gather import code_digest
from harness.evidence.job_file import changed_fields
from harness.evidence.keys import fingerprint, parse_public, public_pem, signed_by
from harness.evidence.manifest import (
    ENVIRONMENT,
    MANIFEST,
    PAGE,
    POLICY,
    PUBLIC_KEY,
    SIGNATURE,
    ListedRun,
    Manifest,
    RunPart,
    load_manifest,
)
from harness.evidence.page import decision_html
from harness.evidence.policy import Policy, merged, parse_policy
from harness.evidence.recompute import recompute_run
from harness.job import parse_job
from harness.judge.gates_file import read_gates
from harness.judge.gates_values import Gate
from harness.judge.verdict import gate_code, worst
from harness.record.gates import GateResult, Outcome, worst_outcome
from harness.record.run import RunRecord
from harness.report.csvfile import comparison_csv
from harness.report.runjson import load
from harness.runs.profile import find_profile

#: A record of a hundred million latencies; json needs about ten times as much memory.
MOST_JSON_BYTES = 1 << 30


@dataclass
class Verification:
    """What came of verifying a bundle.

    Args:
        path: of the bundle.
        touched: one line each: an entry that is not what was signed.
        differences: one line each: a figure or verdict that the raw data do not bear out.
        unknown: (figure, why): it could not be computed again.
        recomputed: how many figures were, and agree.
        kept: (figure, why) of those among them that rest on what the run kept of its outputs, not on the outputs.
        signer: fingerprint of the key; "" where there is no valid signature.
        trusted: whether the key is the one the caller named; None where none was named.
        manifest: None where it cannot be read.
        gates: as the recomputed figures decide them.
        remarks: what a reader must know.
    """

    path: Path
    touched: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    recomputed: int = 0
    signer: str = ""
    trusted: bool | None = None
    manifest: Manifest | None = None
    gates: list[GateResult] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Nothing was touched, the signature is that of the key, and the raw data bear out what is stated."""
        return not self.touched and not self.differences and bool(self.signer) and self.trusted is not False

    @property
    def verdict(self) -> Outcome | None:
        """Of the gates, as the raw data decide them."""
        return worst_outcome(gate.outcome for gate in self.gates)

    def exit_code(self, *, require_pass: bool = False) -> ExitCode:
        """GATE_FAILED for a bundle that is not what it says.

        Args:
            require_pass: a verdict other than pass counts too.
        """
        if not self.intact:
            return ExitCode.GATE_FAILED
        if not require_pass:
            return ExitCode.GOOD
        return worst(gate_code(gate.outcome) for gate in self.gates) if self.gates else ExitCode.INCONCLUSIVE


def verify_bundle(path: Path, key: Ed25519PublicKey | None = None) -> Verification:
    """Check a bundle from end to end.

    Args:
        path: of the bundle.
        key: the signer's, known from elsewhere; None: any key, whose fingerprint is told.

    Raises:
        UserError: there is no such file.
    """
    found = Verification(path)
    container = Container(path)
    found.touched += container.faults
    manifest = _signed_manifest(container, key, found)
    if manifest is None:
        return found
    found.manifest = manifest
    _entries(container, manifest, found)
    if found.touched:
        return found  # figures of altered data mean nothing
    try:
        _content(container, manifest, found)
    except Exception as error:  # noqa: BLE001 (a stranger's arrays and networks may break any library that reads them)
        known = isinstance(error, UserError | ValueError)
        found.differences.append(f"the content cannot be used: {'' if known else f'{type(error).__name__}: '}{error}")
    return found


def _signed_manifest(container: Container, key: Ed25519PublicKey | None, found: Verification) -> Manifest | None:
    names = (MANIFEST, SIGNATURE, PUBLIC_KEY)
    missing = [name for name in names if name not in container.entries]
    if missing:
        if not container.faults or container.entries:
            found.touched += [f"{name}: missing" for name in missing]
        return None
    content, signature, pem = (container.content(name) for name in names)
    try:
        own = parse_public(pem)
    except ValueError as error:
        found.touched.append(f"{PUBLIC_KEY}: {error}")
        return None
    if public_pem(own) != pem:
        found.touched.append(f"{PUBLIC_KEY}: not as it is written")
    if not signed_by(own, signature, content):
        found.touched.append(f"{MANIFEST}: its signature ({SIGNATURE}) is not that of {PUBLIC_KEY} over this content")
        return None
    found.signer = fingerprint(own)
    if key is not None:
        found.trusted = public_pem(key) == public_pem(own)
    try:
        manifest = load_manifest(content)
    except ValueError as error:
        found.touched.append(f"{MANIFEST}: {error}")
        return None
    if manifest.signed_by != found.signer:
        found.touched.append(f"{MANIFEST}: names the key {manifest.signed_by}, the signature is of {found.signer}")
    return manifest


def _entries(container: Container, manifest: Manifest, found: Verification) -> None:
    """Exactly the listed entries, in their order, each with its digest."""
    present = list(container.entries)
    for name, listed in manifest.entries.items():
        entry = container.entries.get(name)
        if entry is None:
            found.touched.append(f"{name}: missing")
        elif entry.sha256 != listed.sha256 or entry.size_bytes != listed.size_bytes:
            found.touched.append(f"{name}: its content is not what was signed")
    found.touched += [f"{name}: not listed" for name in present if name not in {MANIFEST, SIGNATURE, *manifest.entries}]
    if not found.touched and present != [MANIFEST, SIGNATURE, *sorted(manifest.entries)]:
        found.touched.append("the entries are not in their order")


def _content(container: Container, manifest: Manifest, found: Verification) -> None:
    same_code = _same_code(container, manifest, found)
    # a policy without a name of its own is called as its file was
    policy = parse_policy(container.content(POLICY).decode("utf-8-sig"), Path(f"{manifest.policy}.yaml"))
    if policy.name != manifest.policy:
        found.differences.append(f"the manifest calls the policy {manifest.policy}, {POLICY} says {policy.name}")
    judged: list[tuple[ListedRun, RunRecord]] = []
    for run in manifest.runs:
        record = _run(container, run, policy, found, notes=same_code)
        if record is not None:
            judged.append((run, record))
            found.remarks += [f"{run.job}: {what}: {why}" for what, why in run.absent.items()]
    _complete(manifest, policy, judged, found)
    parts = tuple(RunPart(run.run_id).name("") for run in manifest.runs)
    found.differences += [
        _not_a_part(name) for name in manifest.entries if name not in GENERAL and not name.startswith(parts)
    ]
    if found.verdict is None or manifest.verdict != found.verdict:
        found.differences.append(f"the verdict is stated as {manifest.verdict}, the gates say {found.verdict}")
    if same_code and not found.differences:
        page = decision_html(policy, [record for _, record in judged], manifest.created, found.signer)
        if page.encode() != container.content(PAGE):
            found.differences.append(f"{PAGE}: not the page that these figures make")


def _not_a_part(name: str) -> str:
    return (
        f"{name}: no part of a bundle, neither its format nor a run's record names it; if a later version does, update"
    )


def _same_code(container: Container, manifest: Manifest, found: Verification) -> bool:
    """Whether the code that judged is this one; only then must wording agree to the letter."""
    environment = json.loads(container.content(ENVIRONMENT))
    code = environment.get("code", {}) if isinstance(environment, dict) else {}
    if isinstance(code, dict) and code.get("sha256") == code_digest():
        return True
    other = __version__ if manifest.quantrig != __version__ else f"other code of {__version__}"
    found.remarks.append(
        f"made by quantrig {manifest.quantrig}, verified by {other}: notes and pages are not compared, and a "
        "difference may come from an estimator that was changed"
    )
    return False


def _run(container: Container, run: ListedRun, policy: Policy, found: Verification, *, notes: bool) -> RunRecord | None:
    part = RunPart(run.run_id)

    def read(relative: str) -> bytes | None:
        name = part.name(relative)
        return container.content(name) if name in container.entries else None

    label = part.name("run.json")
    if container.entries[label].size_bytes > MOST_JSON_BYTES:
        found.differences.append(f"{label}: larger than {MOST_JSON_BYTES >> 20} MiB: not read")
        return None
    record = load(container.content(label).decode("ascii"), label)
    if (record.run_id, record.job_name) != (run.run_id, run.job):
        found.differences.append(f"{label}: it is of run {record.run_id}, the manifest says {run.run_id}")
    if (record.profile, record.split) != (policy.profile, policy.split):
        asked = f"{policy.profile} on the {policy.split} split"
        found.differences.append(f"{run.job}: measured {record.profile} on the {record.split} split, not {asked}")
    gates = _gates(record, run, policy, read("job.yaml"), found)
    if not record.functions and (specs := own_specs(record)):
        found.remarks.append(f"{run.job}: the run noted no digest of the source of {', '.join(specs)}")
    outputs = json.loads(read("outputs.json") or b"{}")
    if not isinstance(outputs, dict):
        found.differences.append(f"{part.name('outputs.json')}: not a mapping")
        return None
    _digests(container, part, record, outputs, run.absent, found)
    compared = compare_run(
        record, recompute_run(record, read, outputs), gates, find_profile(policy.profile), notes=notes
    )
    found.recomputed += compared.recomputed
    found.differences += [f"{run.job}: {line}" for line in compared.differences]
    found.unknown += [(f"{run.job}: {name}", why) for name, why in compared.unknown]
    found.kept += [(f"{run.job}: {name}", why) for name, why in compared.kept]
    found.gates += compared.gates
    if notes and read("comparison.csv") != comparison_csv(record).encode():
        found.differences.append(f"{part.name('comparison.csv')}: not the table that run.json makes")
    return record


def _gates(
    record: RunRecord, run: ListedRun, policy: Policy, job_file: bytes | None, found: Verification
) -> Sequence[Gate]:
    """The gates that were decided, which must hold those of the policy and of the job's file."""
    names = record.job.get("metrics")
    metrics = [str(name) for name in names] if isinstance(names, list | tuple) else []
    gates = read_gates(record.job.get("gates"), metrics, f"{run.job}: gates")
    asked: Sequence[Gate] = policy.gates(run.position, metrics)
    if job_file is not None:
        written = parse_job(job_file.decode("utf-8-sig"), Path("job.yaml"), there=False)
        for field_name in changed_fields(record.job, written):
            found.differences.append(f"{run.job}: its job.yaml has other {field_name} than run.json")
        asked = merged(written.gates, asked)
    elif "job.yaml" not in run.absent:
        found.differences.append(f"{run.job}: its job.yaml is neither there nor said to be absent")
    by_name = {gate.name: gate for gate in gates}
    for gate in asked:
        if by_name.get(gate.name) != gate:
            found.differences.append(f"{run.job}: gate {gate.name} was not decided as {POLICY} and job.yaml have it")
    return gates


def _digests(
    container: Container,
    part: RunPart,
    record: RunRecord,
    outputs: dict[str, Any],
    absent: Mapping[str, str],
    found: Verification,
) -> None:
    """Files that the record or outputs.json name by digest are those files, and no others are there."""
    named = {part.name(name): digest for name, digest in named_digests(record, outputs).items()}
    for name, digest in named.items():
        entry = container.entries.get(name)
        if entry is not None and entry.sha256 != digest:
            found.differences.append(f"{name}: not the file that the run's record names")
    for function in record.functions:
        for source in function.files:
            name = source_entry(source)
            if part.name(name) not in container.entries and name not in absent:
                found.differences.append(f"{part.name(name)}: the source of {function.spec} is missing")
    found.differences += [_not_a_part(name) for name in unnamed(container.entries, part, record, outputs)]


def _complete(
    manifest: Manifest, policy: Policy, judged: Sequence[tuple[ListedRun, RunRecord]], found: Verification
) -> None:
    """Every job of the policy on every target that it names."""
    for entry in policy.jobs:
        of_job = [record for run, record in judged if run.position == entry.position]
        if not of_job:
            found.differences.append(f"no run of {entry.path.name}, which {POLICY} names")
        measured = {target.entry_name for record in of_job for target in record.targets}
        asked = entry.targets or policy.targets or ()
        found.differences += [
            f"{entry.path.name}: target {name} of {POLICY} has no run" for name in asked if name not in measured
        ]
    if len({run.run_id for run in manifest.runs}) < len(manifest.runs):
        found.differences.append("a run is listed twice")


def as_json(found: Verification, *, require_pass: bool = False) -> dict[str, Any]:
    """What `--json` prints."""
    manifest = found.manifest
    return {
        "bundle": str(found.path),
        "intact": found.intact,
        "exit_code": int(found.exit_code(require_pass=require_pass)),
        "verdict": None if found.verdict is None else found.verdict.value,
        "signer": found.signer or None,
        "trusted": found.trusted,
        "policy": None if manifest is None else manifest.policy,
        "created": None if manifest is None else manifest.created,
        "quantrig": None if manifest is None else manifest.quantrig,
        "touched": found.touched,
        "differences": found.differences,
        "figures_recomputed": found.recomputed,
        "from_kept_rows": [{"figure": name, "why": why} for name, why in found.kept],
        "not_recomputed": [{"figure": name, "why": why} for name, why in found.unknown],
        "gates": [dataclasses.asdict(gate) for gate in found.gates],
        "remarks": found.remarks,
    }
