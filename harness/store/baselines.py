"""Which runs may serve as baselines, and what is kept of a run for the day when it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from harness.record.run import Revision
from harness.store.journal import Store
from harness.store.tables import RunRow, TargetRow

#: Key of a run's request under which tests write.
_TESTS = "tests"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run with a finished target.

    Args:
        run_id: of the run.
        started: ISO 8601.
        revision: of its job's file; None where none was recorded.
        session: of the pytest run that asked for it; "" for `quantrig run`.
        failed: tests that failed on it.
    """

    run_id: str
    started: str
    revision: Revision | None
    session: str
    failed: tuple[str, ...]


class Baselines:
    """The part of the database that the pytest plug-in writes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def candidates(self, job: str | None = None, target: str | None = None) -> Iterator[Candidate]:
        """Runs of a job whose target is done, the newest first; of all jobs and targets where None is named."""
        finished = select(TargetRow.run_id).where(TargetRow.status == "done")
        if target is not None:
            finished = finished.where(TargetRow.name == target)
        query = select(RunRow.run_id, RunRow.started, RunRow.request).where(RunRow.run_id.in_(finished))
        if job is not None:
            query = query.where(RunRow.job_name == job)
        query = query.order_by(RunRow.started.desc(), RunRow.run_id.desc())
        with self._store._sessions() as session:
            for run_id, started, request in session.execute(query.execution_options(yield_per=50)):
                yield _candidate(run_id, started, request)

    def belongs_to(self, run_id: str, session_id: str) -> None:
        """Note which pytest run asked for a run."""
        self._note(run_id, lambda known: known | {"session": session_id})

    def failed_on(self, run_id: str, test: str) -> None:
        """Note that a test failed on what a run showed."""
        self._note(run_id, lambda known: known | {"failed": sorted({*known.get("failed", ()), test})})

    def _note(self, run_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with self._store._write() as session:
            # taken for writing before it is read: two workers may note something of one run at the same instant
            session.execute(update(RunRow).where(RunRow.run_id == run_id).values(status=RunRow.status))
            row = session.get(RunRow, run_id)
            if row is not None:
                row.request = {**row.request, _TESTS: change(dict(row.request.get(_TESTS, {})))}


def _candidate(run_id: str, started: str, request: Mapping[str, Any]) -> Candidate:
    revision, tests = request.get("revision"), request.get(_TESTS, {})
    known = None if revision is None else Revision(**revision)
    return Candidate(run_id, started, known, tests.get("session", ""), tuple(tests.get("failed", ())))
