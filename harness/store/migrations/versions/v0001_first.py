"""The first schema: runs, their targets, outputs, blocks and figures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Go to this schema."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("job_name", sa.String(64), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started", sa.String(40), nullable=False, index=True),
        sa.Column("finished", sa.String(40)),
        sa.Column("out", sa.Text, nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False, index=True),
        sa.Column("request", sa.JSON, nullable=False),
    )
    op.create_table(
        "run_targets",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "run_id", sa.String(64), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("details", sa.JSON, nullable=False),
        sa.UniqueConstraint("run_id", "name"),
    )
    op.create_table(
        "outputs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "target_id", sa.Integer, sa.ForeignKey("run_targets.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.UniqueConstraint("target_id", "network", "chunk"),
    )
    op.create_table(
        "blocks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "target_id", sa.Integer, sa.ForeignKey("run_targets.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("pair", sa.Integer, nullable=False),
        sa.Column("latency_ns", sa.LargeBinary, nullable=False),
        sa.Column("started_unix_s", sa.Float, nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("batch_size", sa.Integer, nullable=False),
        sa.Column("cpu_time_s", sa.Float, nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("target_id", "network", "pair"),
    )
    op.create_table(
        "figures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "run_id", sa.String(64), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("board", sa.String(64), nullable=False),
        sa.Column("environment", sa.String(16), nullable=False),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("metric", sa.String(64), nullable=False, index=True),
        sa.Column("value", sa.Float),
        sa.Column("unit", sa.String(32), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("ci_low", sa.Float),
        sa.Column("ci_high", sa.Float),
        sa.Column("n", sa.BigInteger),
        sa.Column("note", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Go back to an empty database."""
    for table in ("figures", "blocks", "outputs", "run_targets", "runs"):
        op.drop_table(table)
