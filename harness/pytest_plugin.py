"""The pytest plug-in: float against int8 on the boards of a lab, as tests.

    def test_int8_is_as_good(compare):
        result = compare("job.yaml")
        assert result.figure("accuracy_top1_delta").ci_low > -0.01

Loaded by every pytest run of an environment that has quantrig, so everything heavy is imported on first use.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.job import Job
    from harness.judge.comparison import Comparison
    from harness.targets.lab import Lab, Target

_LAB: pytest.StashKey[Lab | None] = pytest.StashKey()
_UID: pytest.StashKey[str] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("quantrig", "float and int8 networks side by side on boards")
    group.addoption("--lab", metavar="FILE", help="the lab file (default: targets.yaml in the root folder)")
    group.addoption("--targets", metavar="A,B", help="only these targets (default: all of the lab)")
    group.addoption("--quantrig-out", metavar="DIR", help="where runs are published (default: reports/pytest)")
    group.addoption("--quantrig-profile", default="quick", help="how much to measure: quick (default) or standard")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and name this test run."""
    config.addinivalue_line(
        "markers",
        "board(environment=None, tags=()): only on targets with these rules (gpu, cpu, fpga, host) and all these tags",
    )
    # under xdist all workers carry the same id, so one worker's run serves the others
    worker = getattr(config, "workerinput", None)
    config.stash[_UID] = worker["testrunuid"] if worker else uuid.uuid4().hex


def _lab_of(config: pytest.Config) -> Lab | None:
    if _LAB not in config.stash:
        config.stash[_LAB] = _load_lab(config)
    return config.stash[_LAB]


def _load_lab(config: pytest.Config) -> Lab | None:
    from harness.errors import UserError
    from harness.targets.lab import load_lab

    named = config.getoption("--lab")
    path = Path(named) if named else config.rootpath / "targets.yaml"
    if not named and not path.exists():
        return None
    try:
        return load_lab(path)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `target` (or `compare`) once for each target it fits."""
    if not {"target", "compare"} & set(metafunc.fixturenames):
        return
    if "target" not in metafunc.fixturenames:
        metafunc.fixturenames.append("target")
    metafunc.parametrize("target", _chosen(metafunc), indirect=True, scope="session")


def _chosen(metafunc: pytest.Metafunc) -> list[object]:
    from harness.errors import UserError

    lab = _lab_of(metafunc.config)
    if lab is None:
        return [_skipped("no-lab", "no lab: give --lab targets.yaml")]
    only = metafunc.config.getoption("--targets")
    try:
        targets = lab.select([name.strip() for name in only.split(",")]) if only else list(lab.targets.values())
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    for marker in metafunc.definition.iter_markers("board"):
        targets = [target for target in targets if _fits(target, **marker.kwargs)]
    if not targets:
        return [_skipped("no-target", "no target of the lab has the environment and tags this test asks for")]
    return [pytest.param(target, id=target.name) for target in targets]


def _fits(target: Target, environment: str | None = None, tags: tuple[str, ...] | list[str] = ()) -> bool:
    return environment in {None, target.environment} and set(tags) <= set(target.tags)


def _skipped(name: str, reason: str) -> object:
    return pytest.param(None, id=name, marks=pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """The lab of `--lab`."""
    found = _lab_of(pytestconfig)
    if found is None:
        pytest.skip("no lab: give --lab targets.yaml")
    return found


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """One target of the lab; a test that asks for it runs once for each."""
    chosen: Target = request.param
    return chosen


@pytest.fixture
def compare(
    request: pytest.FixtureRequest, lab: Lab, target: Target
) -> Callable[[str | os.PathLike[str] | Job], Comparison]:
    """`compare(job)` runs the job on this test's target, or reuses what another test of this run did.

    A path is relative to the folder of the test file. A board that fails fails the test with one line.
    """

    def run(job: str | os.PathLike[str] | Job) -> Comparison:
        result = _run_once(request, lab, target, job)
        for figure in result:
            if figure.value is not None:
                name = f"{figure.network.value}.{figure.metric}"
                request.node.user_properties.append((name, f"{figure.value:.9g}"))
                request.node.user_properties.append((f"{name}.source", figure.source.value))
        if result.status != "done":
            pytest.fail(f"{target.name}: {result.status}: {result.target.error}", pytrace=False)
        return result

    return run


def _run_once(
    request: pytest.FixtureRequest, lab: Lab, target: Target, job: str | os.PathLike[str] | Job
) -> Comparison:
    from filelock import FileLock

    from harness.job import Job, load_job
    from harness.judge.comparison import Comparison
    from harness.report.runjson import load
    from harness.runs.engine import execute_job
    from harness.runs.profile import find_profile
    from harness.store import open_store

    config = request.config
    value = job if isinstance(job, Job) else load_job(request.path.parent / job)
    profile = find_profile(config.getoption("--quantrig-profile"))
    root = Path(config.getoption("--quantrig-out") or config.rootpath / "reports" / "pytest").absolute()
    root.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{value.digest()} {lab.path} {target.name} {profile.name}".encode()).hexdigest()[:12]
    folder = root / f"{value.name}-{target.name}-{key}"
    mark = folder / "testrun"
    with FileLock(root / f".{key}.lock"):
        if not (mark.exists() and mark.read_text() == config.stash[_UID]):
            store = open_store(str(root / "quantrig.db"))
            try:
                finished = execute_job(value, lab, store, targets=[target.name], profile=profile, out=folder)
            finally:
                store.close()
            mark.write_text(config.stash[_UID])
            return Comparison.of(finished.record, target.name)
        return Comparison.of(load((folder / "run.json").read_text(encoding="utf-8")), target.name)
