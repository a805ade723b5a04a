"""One run for everybody who asks for the same thing: the tests of one pytest run, across its worker processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from filelock import FileLock

from harness.job import Job
from harness.judge.comparison import Comparison
from harness.report.runjson import load
from harness.runs.engine import execute_job
from harness.runs.profile import find_profile
from harness.store import Store, open_store
from harness.targets.lab import Lab


def run_once(
    job: Job, lab: Lab, target: str, *, profile: str, root: Path, token: str, store_url: str | None = None
) -> Comparison:
    """Run a job on one target, unless that was done under this token already.

    Args:
        job: what to compare.
        lab: where `target` stands in.
        target: its name.
        profile: quick, standard or release.
        root: folder of the runs and of their database; one folder inside for each (job, target).
        token: of everybody who may share a result; another one runs again.
        store_url: another database than that of `root`.

    Returns:
        the comparison, of a target that failed too: a board that crashed is not asked again for every test.

    Raises:
        UserError: bad input.
        Interrupted: Ctrl-C.
    """
    root.mkdir(parents=True, exist_ok=True)
    # Job.digest leaves out where things lie and what is asked of the result; two jobs may differ in nothing else.
    asked = (job.digest(), job.gates, job.base, job.data.source, lab.path.absolute(), target, profile)
    key = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    folder = root / f"{job.name}-{target}-{key}"
    mark = folder / "asked-by"
    with FileLock(root / f".{key}.lock"):
        if mark.exists() and mark.read_text() == token:
            return Comparison.of(load((folder / "run.json").read_text(encoding="utf-8")), target)
        store = open_suite_store(root, store_url)
        try:
            finished = execute_job(job, lab, store, targets=[target], profile=find_profile(profile), out=folder)
        finally:
            store.close()
        mark.write_text(token)
        return finished.comparison(target)


def open_suite_store(root: Path, url: str | None = None) -> Store:
    """The database of a suite's runs; two processes must not create it at the same instant.

    Args:
        root: folder of the runs, where it lies unless a `url` says otherwise.
        url: as `--store` of the commands.

    Raises:
        UserError: it cannot be opened.
    """
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".quantrig.db.lock"):
        return open_store(url or str(root / "quantrig.db"))
