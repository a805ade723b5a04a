"""Run by Alembic: migrate over the connection that `harness.store.journal` hands in."""

from __future__ import annotations

from alembic import context

from harness.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
