"""Bring a database to today's schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, Engine, inspect, text

from harness.errors import UserError


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("select version_num from alembic_version")).scalar()


def migrate(engine: Engine) -> None:
    """Upgrade the database behind `engine` to the newest schema; does nothing when it is there already.

    Raises:
        UserError: the database was written by a newer quantrig.
    """
    config = _config()
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        if _current(connection) == head:
            return
    with _one_at_a_time(engine), engine.begin() as connection:
        if _current(connection) == head:  # another process was faster
            return
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            message = f"the results database {engine.url!r} is from a newer quantrig ({error}); upgrade quantrig"
            raise UserError(message) from error


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    """Two processes that meet a new SQLite file must not both create its tables; other databases lock by themselves."""
    if engine.url.get_backend_name() != "sqlite" or not engine.url.database:
        yield
        return
    with FileLock(f"{engine.url.database}.lock"):
        yield
