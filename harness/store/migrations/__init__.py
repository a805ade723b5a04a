"""Alembic's home: how an older database becomes today's."""
