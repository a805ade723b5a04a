"""The journal: every finished piece of a run goes into the database at once, so that nothing finished is ever lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_data_path
from pydantic import TypeAdapter
from sqlalchemy import Engine, create_engine, delete, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from harness.errors import UserError
from harness.record.figure import Figure, Network
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord
from harness.store.migrate import migrate
from harness.store.tables import BlockRow, FigureRow, OutputsRow, RunRow, TargetRow

_TARGET = TypeAdapter(TargetRecord)

#: What came to BlockRecord after the table: kept in one column, so that the next field needs no migration.
_LATER = tuple(f for f in fields(BlockRecord) if f.default is not MISSING or f.default_factory is not MISSING)

#: How long a writer waits for another one, s. A write takes milliseconds; a lab disk under load takes a second.
_BUSY_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `quantrig runs`."""

    run_id: str
    job_name: str
    status: str
    started: str
    finished: str | None
    out: Path
    model_digest: str
    request: dict[str, Any]
    targets: tuple[tuple[str, str], ...]  # (name, status)


def store_url(explicit: str | None = None) -> str:
    """Where results are kept: `--store`, else $QUANTRIG_STORE, else a SQLite file in the user's data folder."""
    if explicit:
        return explicit if "://" in explicit else f"sqlite:///{Path(explicit).expanduser().absolute()}"
    if url := os.environ.get("QUANTRIG_STORE"):
        return store_url(url)
    return f"sqlite:///{user_data_path('quantrig') / 'quantrig.db'}"


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})

            @event.listens_for(engine, "connect")
            def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 (a DBAPI connection has no type)
                cursor = connection.cursor()
                # WAL: readers never wait for the writer; NORMAL is durable across a killed process
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                    cursor.execute(f"PRAGMA {pragma}")
                cursor.close()

            return engine
        return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, OSError) as error:
        message = f"the results database {url!r} cannot be used: {error}; give --store PATH or set QUANTRIG_STORE"
        raise UserError(message) from error


def open_store(url: str | None = None) -> Store:
    """Open (and create or upgrade) the results database.

    Raises:
        UserError: it cannot be opened, or a newer quantrig wrote it.
    """
    resolved = store_url(url)
    engine = _engine(resolved)
    try:
        migrate(engine)
    except DBAPIError as error:
        message = f"the results database {resolved!r} cannot be opened: {error.orig}; give --store PATH"
        raise UserError(message) from error
    return Store(engine)


class Store:
    """The database of runs. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Session]:
        try:
            with self._sessions.begin() as session:
                yield session
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            message = (
                f"the results database could not be written: {cause}; check its disk and `quantrig resume` the run"
            )
            raise UserError(message) from error

    # -- runs ---------------------------------------------------------------------------------------------------------

    def create_run(
        self, run_id: str, *, job_name: str, started: str, out: Path, model_digest: str, request: dict[str, Any]
    ) -> None:
        """Note a run before anything of it happens."""
        with self._write() as session:
            session.add(
                RunRow(
                    run_id=run_id, job_name=job_name, status="running", started=started, finished=None,
                    out=str(out.absolute()), model_digest=model_digest, request=request,
                )
            )  # fmt: skip

    def set_run_status(self, run_id: str, status: str, finished: str | None = None) -> None:
        """Note how a run stands."""
        with self._write() as session:
            row = session.get_one(RunRow, run_id)
            row.status = status
            row.finished = finished

    def runs(self, limit: int = 50) -> list[RunSummary]:
        """The newest runs first."""
        with self._sessions() as session:
            rows = session.scalars(
                select(RunRow).order_by(RunRow.started.desc(), RunRow.run_id.desc()).limit(limit)
            ).all()
            return [self._summary(session, row) for row in rows]

    def run(self, run_id: str) -> RunSummary:
        """One run by its id, or by an unambiguous beginning of it.

        Raises:
            UserError: no such run, or more than one.
        """
        with self._sessions() as session:
            row = session.get(RunRow, run_id)
            if row is None:
                found = session.scalars(
                    select(RunRow).where(RunRow.run_id.startswith(run_id, autoescape=True)).limit(3)
                ).all()
                if len(found) != 1:
                    what = "no run" if not found else "more than one run"
                    message = f"{what} has the id '{run_id}'; `quantrig runs` lists them"
                    raise UserError(message)
                row = found[0]
            return self._summary(session, row)

    @staticmethod
    def _summary(session: Session, row: RunRow) -> RunSummary:
        targets = session.execute(
            select(TargetRow.name, TargetRow.status).where(TargetRow.run_id == row.run_id).order_by(TargetRow.id)
        ).all()
        return RunSummary(
            row.run_id, row.job_name, row.status, row.started, row.finished, Path(row.out), row.model_digest,
            row.request, tuple((name, status) for name, status in targets),
        )  # fmt: skip

    # -- targets ------------------------------------------------------------------------------------------------------

    def save_target(self, run_id: str, record: TargetRecord) -> None:
        """Insert or update one target's part of a run (its blocks are kept apart)."""
        details = _TARGET.dump_python(replace(record, blocks=()), mode="json")
        with self._write() as session:
            row = session.scalar(select(TargetRow).where(TargetRow.run_id == run_id, TargetRow.name == record.name))
            if row is None:
                row = TargetRow(run_id=run_id, name=record.name)
                session.add(row)
            row.status, row.error, row.details = record.status, record.error, details

    def targets(self, run_id: str) -> list[TargetRecord]:
        """All targets of a run with their blocks, in the order they were planned."""
        with self._sessions() as session:
            rows = session.scalars(select(TargetRow).where(TargetRow.run_id == run_id).order_by(TargetRow.id)).all()
            return [
                replace(_TARGET.validate_python(row.details), blocks=tuple(self._blocks(session, row.id)))
                for row in rows
            ]

    @staticmethod
    def _target_id(session: Session, run_id: str, name: str) -> int:
        return session.scalars(select(TargetRow.id).where(TargetRow.run_id == run_id, TargetRow.name == name)).one()

    # -- outputs ------------------------------------------------------------------------------------------------------

    def add_outputs(self, run_id: str, target: str, network: Network, chunk: int, path: str, sha256: str) -> None:
        """Note a finished chunk of outputs; `path` is relative to the run's folder."""
        with self._write() as session:
            target_id = self._target_id(session, run_id, target)
            session.execute(
                delete(OutputsRow).where(
                    OutputsRow.target_id == target_id, OutputsRow.network == network, OutputsRow.chunk == chunk
                )
            )
            session.add(OutputsRow(target_id=target_id, network=network, chunk=chunk, path=path, sha256=sha256))

    def outputs(self, run_id: str, target: str, network: Network) -> dict[int, tuple[str, str]]:
        """Finished chunks: number → (path relative to the run's folder, sha256)."""
        with self._sessions() as session:
            target_id = self._target_id(session, run_id, target)
            rows = session.scalars(
                select(OutputsRow).where(OutputsRow.target_id == target_id, OutputsRow.network == network)
            )
            return {row.chunk: (row.path, row.sha256) for row in rows}

    # -- blocks -------------------------------------------------------------------------------------------------------

    def add_block(self, run_id: str, target: str, block: BlockRecord) -> None:
        """Keep one timed block."""
        samples = np.asarray(block.latency_ns, dtype="<u8").tobytes()
        with self._write() as session:
            session.add(
                BlockRow(
                    target_id=self._target_id(session, run_id, target), network=block.network, pair=block.pair,
                    latency_ns=samples, started_unix_s=block.started_unix_s, duration_s=block.duration_s,
                    batch_size=block.batch_size, cpu_time_s=block.cpu_time_s, peak_memory_bytes=block.peak_memory_bytes,
                    details=_block_details(block),
                )
            )  # fmt: skip

    def drop_blocks(self, run_id: str, target: str, pairs: Sequence[int]) -> None:
        """Forget the blocks of these pairs (half a pair is no pair)."""
        with self._write() as session:
            target_id = self._target_id(session, run_id, target)
            session.execute(delete(BlockRow).where(BlockRow.target_id == target_id, BlockRow.pair.in_(list(pairs))))

    def blocks(self, run_id: str, target: str) -> list[BlockRecord]:
        """The timed blocks of one target, in order of pair."""
        with self._sessions() as session:
            return self._blocks(session, self._target_id(session, run_id, target))

    @staticmethod
    def _blocks(session: Session, target_id: int) -> list[BlockRecord]:
        rows = session.scalars(
            select(BlockRow).where(BlockRow.target_id == target_id).order_by(BlockRow.pair, BlockRow.started_unix_s)
        )
        return [
            BlockRecord(
                Network(row.network), row.pair, tuple(np.frombuffer(row.latency_ns, dtype="<u8").tolist()),
                row.started_unix_s, row.duration_s, row.batch_size, row.cpu_time_s, row.peak_memory_bytes,
                **_later_fields(row.details),
            )
            for row in rows
        ]  # fmt: skip

    # -- figures ------------------------------------------------------------------------------------------------------

    def save_figures(self, run_id: str, figures: Sequence[Figure]) -> None:
        """Replace the figures of a run."""
        names = [field.name for field in fields(Figure)]
        with self._write() as session:
            session.execute(delete(FigureRow).where(FigureRow.run_id == run_id))
            session.add_all(
                FigureRow(run_id=run_id, **{name: getattr(figure, name) for name in names}) for figure in figures
            )


def _block_details(block: BlockRecord) -> dict[str, Any] | None:
    """The later fields that differ from their default."""
    told = {f.name: getattr(block, f.name) for f in _LATER}
    plain = BlockRecord(block.network, block.pair, (1,), 0.0, 0.0, 1, 0.0, 0)
    return {name: value for name, value in told.items() if value != getattr(plain, name)} or None


def _later_fields(details: dict[str, Any] | None) -> dict[str, Any]:
    """The opposite; a field that a newer version wrote is left out, JSON's lists are tuples again."""
    known = {f.name for f in _LATER}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (details or {}).items()
        if name in known
    }
