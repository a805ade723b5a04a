"""Options of the plug-in, what they mean, and what is refused before any test is looked at."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Of harness.runs.profile, which is too heavy to import here.
PROFILES = ("quick", "standard", "release")
#: Of harness.targets.boards.
ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")

_UID: pytest.StashKey[str] = pytest.StashKey()


class QuantrigWarning(pytest.PytestWarning):
    """Something that is neither a pass nor a fail; `--quantrig-strict` fails it."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What one pytest run asks for.

    Args:
        root: folder of the runs.
        store_url: of their database; None: in `root`.
        profile: how much to measure.
        baseline: the baseline's name; "" where none was asked for.
        strict: whether what is undecided fails.
        session: id of this pytest run, the same in all workers.
    """

    root: Path
    store_url: str | None
    profile: str
    baseline: str
    strict: bool
    session: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("quantrig", "float and int8 networks side by side on boards")
    group.addoption("--lab", metavar="FILE", help="the lab file (default: targets.yaml in the root folder)")
    group.addoption("--targets", metavar="A,B", help="only these targets (default: all of the lab)")
    group.addoption("--quantrig-out", metavar="DIR", help="where runs are published (default: reports/pytest)")
    group.addoption(
        "--quantrig-profile", choices=PROFILES, default=PROFILES[0], help="how much to measure (default: quick)"
    )
    group.addoption(
        "--quantrig-baseline",
        metavar="RUN|BRANCH",
        help="what assert_no_regression() compares with: a run's id, the id of a pytest run, a git branch (the newest "
        "good run on it), or last",
    )
    group.addoption(
        "--quantrig-store",
        metavar="URL",
        help="database of runs and baselines (default: quantrig.db in the out folder)",
    )
    group.addoption(
        "--quantrig-strict",
        action="store_true",
        help="what is undecided (inconclusive gates, unclear changes, no baseline) fails instead of warning",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the summary, and name this test run."""
    from harness.pytest_plugin.telling import Summary

    config.addinivalue_line(
        "markers",
        "board(environment=None, tags=()): only on targets with these rules (gpu, cpu, fpga, host) and all these tags",
    )
    # under xdist all workers carry the same id, so one worker's run serves the others
    worker = getattr(config, "workerinput", None)
    config.stash[_UID] = worker["testrunuid"] if worker else uuid.uuid4().hex
    config.pluginmanager.register(Summary(), "quantrig-summary")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Check what the command line asks for, before any test is looked at.

    Raises:
        pytest.UsageError: no such lab, target or baseline.
    """
    from harness.pytest_plugin.boards import targets_of

    config = session.config
    if config.getoption("--lab") or config.getoption("--targets") is not None:
        targets_of(config)
    if config.getoption("--quantrig-baseline") is not None and not hasattr(config, "workerinput"):
        _check_baseline(config)


def suite_of(config: pytest.Config) -> Suite:
    """What this pytest run asks for."""
    out = config.getoption("--quantrig-out")
    return Suite(
        root=config.invocation_params.dir / out if out else config.rootpath / "reports" / "pytest",
        store_url=config.getoption("--quantrig-store"),
        profile=config.getoption("--quantrig-profile"),
        baseline=config.getoption("--quantrig-baseline") or "",
        strict=config.getoption("--quantrig-strict"),
        session=config.stash[_UID],
    )


def _check_baseline(config: pytest.Config) -> None:
    from harness.errors import UserError
    from harness.history.baseline import check_asked
    from harness.runs.once import open_suite_store
    from harness.runs.revision import knows_branch

    suite = suite_of(config)
    try:
        if not suite.baseline:
            raise UserError("--quantrig-baseline names nothing: write last, a run's id or a branch")
        store = open_suite_store(suite.root, suite.store_url)
        try:
            check_asked(store, suite.baseline, known_branch=knows_branch(config.rootpath, suite.baseline))
        finally:
            store.close()
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
