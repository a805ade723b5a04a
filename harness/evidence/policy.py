"""POLICY.yaml: which jobs, on which targets, measured how well, must pass which gates, and who signs.

policy = load_policy(Path("release.yaml"))
for entry in policy.jobs:
    job = policy.job(entry)          # the job with the policy's gates over its own
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from harness.errors import UserError
from harness.job import Job, load_job, slug
from harness.judge.gates_file import GateFile, gates_of
from harness.judge.gates_values import Gate
from harness.yamlfile import Document, FileModel, parse_yaml, read_yaml, validate

Outputs = Literal["include", "digests"]


@dataclass(frozen=True, slots=True)
class PolicyJob:
    """One job of a policy.

    Args:
        path: of the job file.
        targets: of the lab; None: the policy's.
        position: in the file, for messages.
    """

    path: Path
    targets: tuple[str, ...] | None
    position: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a release must show.

    Args:
        name: words of a-z and 0-9 with single dots or hyphens between them, at most 64 characters.
        path: the file; relative names start from its folder.
        jobs: at least one.
        lab: the lab file, None: found as `quantrig run` finds it.
        targets: of the lab; None: all.
        profile: how much to measure.
        split: which samples.
        out: where runs, page and bundle go; None: reports/<stamp>-<name>.
        key: folder or file of the signing key; None: the user's own.
        outputs: "include" every raw output of the boards in the bundle, or their "digests" only.
    """

    name: str
    path: Path
    jobs: tuple[PolicyJob, ...]
    lab: Path | None
    targets: tuple[str, ...] | None
    profile: str
    split: str
    out: Path | None
    key: Path | None
    outputs: Outputs
    _document: Document = field(repr=False, compare=False)
    _file: _PolicyFile = field(repr=False, compare=False)

    def job(self, entry: PolicyJob) -> Job:
        """The job with what is asked of it: its own gates, and the policy's, which replace those of the same name.

        Raises:
            UserError: the job file is wrong, or a gate does not fit it.
        """
        job = load_job(entry.path)
        gates = self.gates(entry.position, job.metrics)
        if not gates and not job.gates:
            raise UserError(f"{self.path}: nothing is asked of {entry.path.name}; give the policy `gates:`")
        return replace(job, gates=merged(job.gates, gates))

    def gates(self, position: int, metrics: Sequence[str]) -> tuple[Gate, ...]:
        """The policy's own gates of its job at `position`: those of all jobs, and those of that one.

        Raises:
            UserError: a gate that does not fit the metrics.
        """
        general = gates_of(self._document, ("gates",), self._file.gates, metrics)
        entry = self._file.jobs[position]
        if isinstance(entry, str):
            return general
        return merged(general, gates_of(self._document, ("jobs", position, "gates"), entry.gates, metrics))


def merged(first: Sequence[Gate], second: Sequence[Gate]) -> tuple[Gate, ...]:
    """Gates of both; where both have one of a name, that of the second."""
    return tuple(({gate.name: gate for gate in first} | {gate.name: gate for gate in second}).values())


#: Releases are called camera-2.1; the name is a file's, so no dot leads and no two stand together.
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_LONGEST_NAME = 64


class _JobEntry(FileModel):
    job: str = Field(min_length=1)
    targets: list[str] | None = Field(default=None, min_length=1)
    gates: dict[str, GateFile] = Field(default_factory=dict)


class _PolicyFile(FileModel):
    name: str | None = None
    jobs: list[str | _JobEntry] = Field(min_length=1)
    lab: str | None = None
    targets: list[str] | None = Field(default=None, min_length=1)
    profile: str = "release"
    split: Literal["validation", "all"] = "validation"
    gates: dict[str, GateFile] = Field(default_factory=dict)
    out: str | None = None
    key: str | None = None
    outputs: Outputs = "include"

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not (_NAME.fullmatch(value) and len(value) <= _LONGEST_NAME):
            words = ("-".join(re.findall(r"[a-z0-9]+", word)) for word in value.lower().split("."))
            better = ".".join(word for word in words if word)[:_LONGEST_NAME].rstrip(".-") or "release"
            raise ValueError(
                f"'{value}' may hold a-z, 0-9 and single . or - between them ({_LONGEST_NAME} at most); write {better}"
            )
        return value


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
    return _policy(read_yaml(path), path.resolve())


def parse_policy(text: str, path: Path) -> Policy:
    """Like `load_policy`, from the text that `path` would hold; whether the job files exist is not asked."""
    return _policy(parse_yaml(text, str(path)), path, there=False)


def _policy(document: Document, path: Path, *, there: bool = True) -> Policy:
    file = validate(document, _PolicyFile)
    base = path.parent

    def place(text: str | None) -> Path | None:
        return None if text is None else base / Path(text).expanduser()

    jobs = []
    for position, entry in enumerate(file.jobs):
        text = entry if isinstance(entry, str) else entry.job
        job = base / Path(text).expanduser()
        if there and not job.is_file():
            where = ("jobs", position) if isinstance(entry, str) else ("jobs", position, "job")
            raise document.error(where, f"jobs: no file {job}; paths are relative to the policy file")
        targets = entry.targets if isinstance(entry, _JobEntry) else None
        jobs.append(PolicyJob(job, None if targets is None else tuple(targets), position))
    if len({one.path for one in jobs}) < len(jobs):
        raise document.error(("jobs",), "a job is named twice; remove one")
    return Policy(
        name=file.name or slug(path.stem),
        path=path,
        jobs=tuple(jobs),
        lab=place(file.lab),
        targets=None if file.targets is None else tuple(file.targets),
        profile=file.profile,
        split=file.split,
        out=place(file.out),
        key=place(file.key),
        outputs=file.outputs,
        _document=document,
        _file=file,
    )
