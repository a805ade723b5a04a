"""What is known of a block beside its samples: why it was rejected, whether it was watched, which clock timed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Go to this schema."""
    op.add_column("blocks", sa.Column("details", sa.JSON))


def downgrade() -> None:
    """Go back to the one before."""
    op.drop_column("blocks", "details")
