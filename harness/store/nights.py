"""Nights, surroundings and alarms in the results database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, select

from harness.errors import UserError
from harness.record.figure import Figure, Network, Source
from harness.record.target import TargetRecord
from harness.store.journal import Store
from harness.store.tables import AlarmRow, BlockRow, FigureRow, NightRow, RunRow, SurroundingsRow, TargetRow

_TARGET = TypeAdapter(TargetRecord)
_FIGURE_FIELDS = tuple(one.name for one in fields(Figure))
#: States of an alarm: raised tonight; told before; a person has looked at it; later nights took it back.
STATES = ("new", "seen", "acknowledged", "withdrawn")


@dataclass(frozen=True, slots=True)
class Night:
    """One night of a plan, as it is kept.

    Args:
        details: entries (job, targets, run_id, outcome) and whatever else `harness.history` keeps of it, plain JSON.
    """

    night_id: str
    plan: str
    status: str
    started: str
    finished: str | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A step that was found, and its state.

    Args:
        number: how `quantrig history ack` names it; 0 before it is kept.
        details: old and new level, change with interval, how sure, causes; plain JSON.
    """

    plan: str
    job: str
    target: str
    network: str
    metric: str
    first_run_id: str
    raised: str
    state: str = "new"
    details: dict[str, Any] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True)
class KeptFigure:
    """A figure with its run: what series are made of."""

    run_id: str
    started: str
    job: str
    figure: Figure


class Nights:
    """The part of the database that `quantrig nightly` writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unreadable: dict[tuple[str, str], None] = {}

    # -- nights -------------------------------------------------------------------------------------------------------

    def save(self, night: Night) -> None:
        """Insert or update a night."""
        with self._store._write() as session:
            session.merge(
                NightRow(
                    night_id=night.night_id, plan=night.plan, status=night.status, started=night.started,
                    finished=night.finished, details=night.details,
                )
            )  # fmt: skip

    def nights(self, plan: str | None = None, limit: int | None = None) -> list[Night]:
        """The newest nights first; of all plans where None is named."""
        query = select(NightRow).order_by(NightRow.started.desc(), NightRow.night_id.desc())
        if plan is not None:
            query = query.where(NightRow.plan == plan)
        with self._store._sessions() as session:
            return [
                Night(row.night_id, row.plan, row.status, row.started, row.finished, row.details)
                for row in session.scalars(query.limit(limit))
            ]

    def folder(self, run_id: str) -> Path:
        """Of a run, as it was when the run began.

        Raises:
            UserError: no such run.
        """
        return self._store.run(run_id).out

    # -- what figures depended on -------------------------------------------------------------------------------------

    def save_surroundings(self, run_id: str, target: str, values: Mapping[str, str]) -> None:
        """Keep what a run's figures on one target depended on."""
        with self._store._write() as session:
            session.execute(
                delete(SurroundingsRow).where(SurroundingsRow.run_id == run_id, SurroundingsRow.target == target)
            )
            session.add(SurroundingsRow(run_id=run_id, target=target, fields=dict(values)))

    def surroundings(self, runs: Collection[str]) -> dict[tuple[str, str], dict[str, str]]:
        """(run, target) → what was kept."""
        with self._store._sessions() as session:
            return {
                (row.run_id, row.target): row.fields
                for batch in _batches(runs)
                for row in session.scalars(select(SurroundingsRow).where(SurroundingsRow.run_id.in_(batch)))
            }

    def records(self, runs: Collection[str]) -> dict[tuple[str, str], TargetRecord]:
        """(run, target) → its record without blocks; one that this version cannot read is left out, see `unreadable`.

        A store holds years of runs: one record of another format must not end every night after it.
        """
        found = {}
        with self._store._sessions() as session:
            for batch in _batches(runs):
                for row in session.scalars(select(TargetRow).where(TargetRow.run_id.in_(batch))):
                    try:
                        found[row.run_id, row.name] = _TARGET.validate_python(row.details)
                    except ValidationError:
                        self._unreadable[row.run_id, row.name] = None
        return found

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """(run, target) of the records that `records` had to leave out so far, each once."""
        return tuple(self._unreadable)

    # -- figures ------------------------------------------------------------------------------------------------------

    def figures(self, runs: Collection[str] | None, metrics: Collection[str] | None = None) -> list[KeptFigure]:
        """Figures with a value of targets that are done, in order of their runs' time.

        Args:
            runs: their ids; None: all runs.
            metrics: only these.
        """
        query = (
            select(FigureRow, RunRow.started, RunRow.job_name)
            .join(RunRow, RunRow.run_id == FigureRow.run_id)
            .join(TargetRow, (TargetRow.run_id == FigureRow.run_id) & (TargetRow.name == FigureRow.target))
            .where(TargetRow.status == "done", FigureRow.value.is_not(None))
        )
        if metrics is not None:
            query = query.where(FigureRow.metric.in_(list(metrics)))
        found = []
        with self._store._sessions() as session:
            for batch in [None] if runs is None else _batches(runs):
                chosen = query if batch is None else query.where(FigureRow.run_id.in_(batch))
                for row, started, job in session.execute(chosen):
                    values = {name: getattr(row, name) for name in _FIGURE_FIELDS}
                    values |= {"network": Network(row.network), "source": Source(row.source)}
                    found.append(KeptFigure(row.run_id, started, job, Figure(**values)))
        return sorted(found, key=lambda one: (one.started, one.run_id))

    def forget_blocks(self, runs: Collection[str]) -> int:
        """Drop the raw blocks of these runs from the database (figures and reports stay); how many rows went."""
        gone = 0
        with self._store._write() as session:
            for batch in _batches(runs):
                targets = select(TargetRow.id).where(TargetRow.run_id.in_(batch))
                rows = session.scalars(select(BlockRow.id).where(BlockRow.target_id.in_(targets))).all()
                gone += len(rows)
                session.execute(delete(BlockRow).where(BlockRow.target_id.in_(targets)))
        return gone

    # -- alarms -------------------------------------------------------------------------------------------------------

    def add_alarm(self, alarm: Alarm) -> int:
        """Keep a new alarm; its number."""
        with self._store._write() as session:
            row = AlarmRow(
                plan=alarm.plan, job_name=alarm.job, target=alarm.target, network=alarm.network, metric=alarm.metric,
                first_run_id=alarm.first_run_id, raised=alarm.raised, state=alarm.state, details=alarm.details,
            )  # fmt: skip
            session.add(row)
            session.flush()
            return row.id

    def update_alarm(self, number: int, *, state: str | None = None, details: dict[str, Any] | None = None) -> None:
        """Change an alarm.

        Raises:
            UserError: there is none of that number.
        """
        with self._store._write() as session:
            row = session.get(AlarmRow, number)
            if row is None:
                message = f"no alarm has the number {number}; `quantrig history` lists them"
                raise UserError(message)
            row.state = row.state if state is None else state
            row.details = row.details if details is None else details

    def alarms(self, plan: str | None = None) -> list[Alarm]:
        """All alarms, the newest first; of all plans where None is named."""
        query = select(AlarmRow).order_by(AlarmRow.raised.desc(), AlarmRow.id.desc())
        if plan is not None:
            query = query.where(AlarmRow.plan == plan)
        with self._store._sessions() as session:
            return [
                Alarm(
                    row.plan, row.job_name, row.target, row.network, row.metric, row.first_run_id, row.raised,
                    row.state, row.details, row.id,
                )
                for row in session.scalars(query)
            ]  # fmt: skip


def _batches(values: Collection[str]) -> Iterator[list[str]]:
    """SQLite takes a limited number of parameters a statement."""
    listed = list(values)
    for start in range(0, len(listed), 500):
        yield listed[start : start + 500]
