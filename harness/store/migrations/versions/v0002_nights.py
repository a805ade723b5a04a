"""Nights of `quantrig nightly`: what ran, what each run's surroundings were, and the alarms that were raised."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Go to this schema."""
    op.create_table(
        "nights",
        sa.Column("night_id", sa.String(64), primary_key=True),
        sa.Column("plan", sa.String(64), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started", sa.String(40), nullable=False, index=True),
        sa.Column("finished", sa.String(40)),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_table(
        "surroundings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "run_id", sa.String(64), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.UniqueConstraint("run_id", "target"),
    )
    op.create_table(
        "alarms",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("plan", sa.String(64), nullable=False, index=True),
        sa.Column("job_name", sa.String(64), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("first_run_id", sa.String(64), nullable=False),
        sa.Column("raised", sa.String(40), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Go back to the schema before."""
    for table in ("alarms", "surroundings", "nights"):
        op.drop_table(table)
