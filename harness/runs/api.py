"""`harness.run`: the command `quantrig run` as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from harness.job import Job, job_from_mapping, load_job
from harness.runs.engine import Run, execute_job
from harness.runs.observer import Observer
from harness.runs.profile import find_profile
from harness.store import open_store
from harness.targets.lab import Lab, find_lab, load_lab


def run(
    job: str | PathLike[str] | Mapping[str, Any] | Job,
    lab: str | PathLike[str] | Lab | None = None,
    targets: Sequence[str] | None = None,
    out: str | PathLike[str] | None = None,
    *,
    profile: str = "standard",
    split: str = "validation",
    store: str | None = None,
    observer: Observer | None = None,
) -> Run:
    """Quantize, ship, measure, judge, publish.

    Example:
        >>> import harness
        >>> finished = harness.run("job.yaml", targets=["this-machine"])  # doctest: +SKIP
        >>> finished.comparison("this-machine").value("speedup")  # doctest: +SKIP

    Args:
        job: a job file, its content as a mapping (paths relative to the current folder), or a `Job`.
        lab: a lab file or a `Lab`; None: ./targets.yaml, then beside the job file.
        targets: only these.
        out: the run's folder; None: reports/RUN_ID.
        profile: how much to measure: quick or standard.
        split: "validation", or "all" samples.
        store: the results database; None: as the command.
        observer: told of the progress.

    Returns:
        The finished run; a board that failed is in its record, not an exception.

    Raises:
        UserError: bad input.
        Interrupted: Ctrl-C; `quantrig resume` goes on.
    """
    value = _job(job)
    found = lab if isinstance(lab, Lab) else load_lab(find_lab(None if lab is None else Path(lab), value.path))
    opened = open_store(store)
    try:
        return execute_job(
            value,
            found,
            opened,
            targets=targets,
            profile=find_profile(profile),
            split_name=split,
            out=None if out is None else Path(out),
            observer=observer,
        )
    finally:
        opened.close()


def _job(job: str | PathLike[str] | Mapping[str, Any] | Job) -> Job:
    if isinstance(job, Job):
        return job
    if isinstance(job, Mapping):
        return job_from_mapping(dict(job), Path.cwd())
    return load_job(Path(job))
