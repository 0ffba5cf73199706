"""The schema's versions: Alembic without an ini file. Everything here blocks.

A version is a number of four digits; ``"0000"`` is an empty database. A migration only adds what the release
before can live with, so during a roll nodes of both releases use the newer schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.config.settings import SettingsError, StoreSettings, hide_password
from gateway.store.engine import make_engine, parse, path_of
from gateway.store.failures import line_of

__all__ = ["EMPTY", "is_outdated", "migrate", "newest_version", "schema_version", "upgrade", "version_of"]

EMPTY: Final = "0000"
_LOCK: Final = 0x7472_6972_656D_65
"""The advisory lock of PostgreSQL under which one process at a time migrates."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def newest_version() -> str:
    """The version that this release brings."""
    return ScriptDirectory.from_config(_config()).get_current_head() or EMPTY


def schema_version(address: str, settings: StoreSettings | None = None) -> str:
    """The version of the database at ``address``; raises ``SettingsError`` when it cannot be asked."""
    engine = _open(address, settings or StoreSettings())
    try:
        with engine.begin() as connection:
            return version_of(connection)
    except SQLAlchemyError as error:
        raise _unusable(address, error) from None
    finally:
        engine.dispose()


def migrate(address: str, to: str | None = None, settings: StoreSettings | None = None) -> tuple[str, str]:
    """Bring the database to version ``to`` (default: the newest), up or down, with its data.

    Returns the versions before and after. Of several processes at once one does it, in one transaction. Never
    goes down from a version that this release does not know. Raises ``SettingsError``.
    """
    newest = newest_version()
    target = to or newest
    if not (target.isdecimal() and EMPTY <= target <= newest and len(target) == len(EMPTY)):
        raise SettingsError(f"schema version {target!r} is unknown: the newest is {newest}")
    engine = _open(address, settings or StoreSettings())
    try:
        with engine.begin() as connection:
            return upgrade(connection, target, down=to is not None)
    except SQLAlchemyError as error:
        raise _unusable(address, error) from None
    finally:
        engine.dispose()


def _open(address: str, settings: StoreSettings) -> Engine:
    url = parse(address)
    if (path := path_of(url)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return make_engine(url, settings)


def _unusable(address: str, error: SQLAlchemyError) -> SettingsError:
    return SettingsError(f"database {hide_password(address)} cannot be used: {line_of(error)}")


def version_of(connection: Connection) -> str:
    """The version that the database says it has."""
    return MigrationContext.configure(connection).get_current_revision() or EMPTY


def is_outdated(version: str) -> bool:
    """Whether this release needs a newer one."""
    return version < newest_version()


def upgrade(connection: Connection, target: str, *, down: bool = False) -> tuple[str, str]:
    """In a transaction that writes: from its version to ``target``; downwards only when asked to."""
    if connection.dialect.name == "postgresql":
        # Longer than a lock may usually be waited for: another process is migrating.
        connection.execute(
            text("SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)")
        )
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    before = version_of(connection)
    if before < target:
        command.upgrade(_config(connection), target)
    elif down and before > target:
        if before > newest_version():
            raise SettingsError(f"the schema has version {before}, which only a newer release can downgrade")
        command.downgrade(_config(connection), "base" if target == EMPTY else target)
    return before, version_of(connection)
