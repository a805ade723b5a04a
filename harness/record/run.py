"""A whole run."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.record.figure import Figure
from harness.record.gates import GateResult
from harness.record.target import TargetRecord

#: Version of run.json. Raised when a field changes its meaning; adding a field does not raise it.
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Revision:
    """Where the job's file stood in version control when the run began.

    Args:
        commit: its full name.
        branch: "" where no branch was checked out and no CI system names one.
        dirty: whether tracked files differed from the commit.
    """

    commit: str
    branch: str
    dirty: bool


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a job's own function comes from.

    Args:
        path: from the job's folder with forward slashes where it lies in there, else absolute.
        sha256: of its content when the figures were computed, lower-case hex.
    """

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A function that the job names: a metric of its own, or its postprocessing.

    Args:
        spec: "module:function".
        files: its module, modules beside the job that this imports, and where its code is if elsewhere.
    """

    spec: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A whole run.

    Args:
        run_id: [a-z0-9-]{1,64}, sortable by time.
        job: the job as plain JSON, paths resolved.
        model_digest: sha256 of the float network.
        profile: "quick", "standard" or "release".
        samples: how many samples the accuracy rests on; `calibration_samples` how many the ranges rest on.
        started: ISO 8601 with time zone.
        finished: None while it runs or when it was interrupted.
        host: the orchestrator's own environment: versions, CPU, flags.
        gates: what came of the job's gates, target by target; empty where it has none.
        revision: of the job's file; None outside a git repository and in records of older versions.
        functions: the job's own, with their sources; empty where it has none and in records of older versions.
    """

    run_id: str
    job_name: str
    job: dict[str, object]
    model_digest: str
    profile: str
    split: str
    samples: int
    calibration_samples: int
    started: str
    finished: str | None
    host: dict[str, object]
    targets: tuple[TargetRecord, ...]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    revision: Revision | None = None
    functions: tuple[FunctionRecord, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)
