"""The fixture `compare`: one run of a job on a test's target, shared by all tests and workers of a pytest run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.boards import named_target
from harness.pytest_plugin.options import QuantrigWarning, suite_of

if TYPE_CHECKING:
    from harness.job import Job
    from harness.pytest_plugin.result import Baseline, BoardComparison, Ledger
    from harness.targets.lab import Lab
    from harness.targets.target import Target

_LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()
_WARNED: pytest.StashKey[set[str]] = pytest.StashKey()


@pytest.fixture
def compare(
    request: pytest.FixtureRequest, target: Target | str, lab: Lab
) -> Callable[[str | os.PathLike[str] | Job], BoardComparison]:
    """`compare(job)` runs the job on this test's target, or reuses what another test of this run did.

    A path is relative to the folder of the test file. A job that cannot be used, or a board that fails, fails the
    test with one line.
    """
    chosen = named_target(target, request)

    def run(job: str | os.PathLike[str] | Job) -> BoardComparison:
        from harness.errors import UserError
        from harness.job import Job, load_job
        from harness.pytest_plugin.result import BoardComparison
        from harness.pytest_plugin.telling import record
        from harness.runs.interrupt import Interrupted
        from harness.runs.once import run_once

        suite, fault = suite_of(request.config), ""
        try:
            found = run_once(
                job if isinstance(job, Job) else load_job(request.path.parent / job),
                lab,
                chosen.name,
                profile=suite.profile,
                root=suite.root,
                token=suite.session,
                store_url=suite.store_url,
            )
            baseline = _baseline(request, found.record.run_id)
            baseline.keep(found)
            result = BoardComparison(found.target, found.figures, found.record, suite.strict, baseline)
            record(request.node, result)
        except UserError as error:
            fault = f"{chosen.name}: {error}"
        except Interrupted:
            # the run caught Ctrl-C to end its agents in order; now pytest may end too
            raise KeyboardInterrupt from None
        if fault:  # outside of the handler, which would print the error twice
            pytest.fail(fault, pytrace=False)
        if result.status != "done":
            pytest.fail(f"{chosen.name}: {result.status}: {result.target.error}", pytrace=False)
        _warn_of_undecided(request, result)
        return result

    return run


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the database."""
    if _LEDGER in config.stash:
        config.stash[_LEDGER].store.close()
        del config.stash[_LEDGER]


def ledger_of(config: pytest.Config) -> Ledger:
    """What this worker knows of runs and baselines; its database is opened on first use."""
    from harness.pytest_plugin.result import Ledger
    from harness.runs.once import open_suite_store

    if _LEDGER not in config.stash:
        suite = suite_of(config)
        config.stash[_LEDGER] = Ledger(suite, open_suite_store(suite.root, suite.store_url))
    return config.stash[_LEDGER]


def _baseline(request: pytest.FixtureRequest, run_id: str) -> Baseline:
    from harness.pytest_plugin.result import Baseline

    def warn(message: str) -> None:
        _warn_once(request, f"{run_id} {message}", message)

    return Baseline(ledger_of(request.config), warn, request.node)


def _warn_of_undecided(request: pytest.FixtureRequest, result: BoardComparison) -> None:
    from harness.judge.target_verdict import gate_line
    from harness.record.gates import Outcome

    for gate in result.verdict.of(Outcome.INCONCLUSIVE):
        text = f"{result.record.job_name} on {result.target.name}: gate {gate.gate} is inconclusive: {gate_line(gate)}"
        _warn_once(request, f"{result.record.run_id} {gate.gate}", text)


def _warn_once(request: pytest.FixtureRequest, key: str, message: str) -> None:
    """Many tests look at one run: the first one tells."""
    told = request.config.stash.setdefault(_WARNED, set())
    if key not in told:
        told.add(key)
        request.node.warn(QuantrigWarning(message))
