"""The tables of the results database (SQLite by default, PostgreSQL for a lab)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all tables."""


class RunRow(Base):
    """One run: what was asked, so that it can be resumed, and how it ended."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_name: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))  # "running", "interrupted", "done", "failed"
    started: Mapped[str] = mapped_column(String(40), index=True)  # ISO 8601 with time zone
    finished: Mapped[str | None] = mapped_column(String(40))
    out: Mapped[str] = mapped_column(Text)  # absolute folder of the run
    model_digest: Mapped[str] = mapped_column(String(64), index=True)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)  # what `resume` needs to go on


class TargetRow(Base):
    """One target's part of a run."""

    __tablename__ = "run_targets"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)  # the TargetRecord but for its blocks


class OutputsRow(Base):
    """One finished chunk of inference: its outputs lie in a file of the run's folder."""

    __tablename__ = "outputs"
    __table_args__ = (UniqueConstraint("target_id", "network", "chunk"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("run_targets.id", ondelete="CASCADE"), index=True)
    network: Mapped[str] = mapped_column(String(16))
    chunk: Mapped[int] = mapped_column(Integer)
    path: Mapped[str] = mapped_column(Text)  # relative to the run's folder
    sha256: Mapped[str] = mapped_column(String(64))


class BlockRow(Base):
    """One timed block with every raw sample."""

    __tablename__ = "blocks"
    __table_args__ = (UniqueConstraint("target_id", "network", "pair"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("run_targets.id", ondelete="CASCADE"), index=True)
    network: Mapped[str] = mapped_column(String(16))
    pair: Mapped[int] = mapped_column(Integer)
    latency_ns: Mapped[bytes] = mapped_column(LargeBinary)  # little-endian uint64
    started_unix_s: Mapped[float] = mapped_column(Float)
    duration_s: Mapped[float] = mapped_column(Float)
    batch_size: Mapped[int] = mapped_column(Integer)
    cpu_time_s: Mapped[float] = mapped_column(Float)
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # fields of BlockRecord that came later; null: none


class FigureRow(Base):
    """One published number (the columns of comparison.csv)."""

    __tablename__ = "figures"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id", ondelete="CASCADE"), index=True)
    target: Mapped[str] = mapped_column(String(64))
    board: Mapped[str] = mapped_column(String(64))
    environment: Mapped[str] = mapped_column(String(16))
    network: Mapped[str] = mapped_column(String(16))
    device: Mapped[str] = mapped_column(Text)
    metric: Mapped[str] = mapped_column(String(64), index=True)
    value: Mapped[float | None] = mapped_column(Float)
    unit: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(16))
    ci_low: Mapped[float | None] = mapped_column(Float)
    ci_high: Mapped[float | None] = mapped_column(Float)
    n: Mapped[int | None] = mapped_column(BigInteger)
    note: Mapped[str] = mapped_column(Text)


class NightRow(Base):
    """One night of a plan: what it was to run and how far it came."""

    __tablename__ = "nights"

    night_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    plan: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))  # "running", "interrupted", "done"
    started: Mapped[str] = mapped_column(String(40), index=True)  # ISO 8601 with time zone
    finished: Mapped[str | None] = mapped_column(String(40))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)  # its entries: job, targets, run, outcome


class SurroundingsRow(Base):
    """What one run's figures on one target depended on, by name (`harness.history.environment`)."""

    __tablename__ = "surroundings"
    __table_args__ = (UniqueConstraint("run_id", "target"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id", ondelete="CASCADE"), index=True)
    target: Mapped[str] = mapped_column(String(64))
    fields: Mapped[dict[str, str]] = mapped_column(JSON)


class AlarmRow(Base):
    """A step in a series that was found one night and what became of it."""

    __tablename__ = "alarms"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    plan: Mapped[str] = mapped_column(String(64), index=True)
    job_name: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(64))
    network: Mapped[str] = mapped_column(String(16))
    metric: Mapped[str] = mapped_column(String(64))
    first_run_id: Mapped[str] = mapped_column(String(64))  # the first run on the new level
    raised: Mapped[str] = mapped_column(String(40), index=True)  # ISO 8601: when it was found
    state: Mapped[str] = mapped_column(String(16))  # "new", "seen", "acknowledged", "withdrawn"
    details: Mapped[dict[str, Any]] = mapped_column(JSON)  # old, new, interval, how sure, causes
