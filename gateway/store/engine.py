"""SQLAlchemy engines for SQLite and PostgreSQL: two of them, one that reads and one that writes.

Reads are single statements in autocommit: an open read transaction would keep SQLite's WAL from being
reused. Writes begin with ``BEGIN IMMEDIATE``: a transaction that only later needs the write lock fails with
"locked", whatever the timeout.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from gateway.config.settings import SettingsError, StoreSettings, hide_password

__all__ = ["POSTGRESQL", "SQLITE", "make_engine", "parse", "path_of"]

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_CACHE_KIB: Final = 8192
"""SQLite's page cache, for each connection."""
_WAL_PAGES: Final = 4000
"""16 MiB of WAL between two checkpoints: four times SQLite's own bound halves what they cost."""
_TRIES: Final = 100
_PAUSE: Final = 0.01
"""Seconds, in a thread of the store."""


def parse(address: str) -> URL:
    """The address as SQLAlchemy has it; raises ``SettingsError`` for one that cannot be used."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise SettingsError(f"database {hide_password(address)!r} is not a valid address") from None
    if url.drivername not in (SQLITE, f"{POSTGRESQL}+psycopg"):
        raise SettingsError(f"database {hide_password(address)!r} is unknown")
    return url


def path_of(url: URL) -> Path | None:
    """The file of an SQLite address; None for PostgreSQL, and for SQLite in memory."""
    if url.get_backend_name() != SQLITE or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def make_engine(url: URL, settings: StoreSettings, *, reads: int = 0) -> Engine:
    """An engine with ``reads`` reading connections, or with one that writes. Connects to nothing yet."""
    common: dict[str, Any] = {
        "pool_size": reads or 1,
        "max_overflow": 0,
        "pool_timeout": settings.timeout,
        "hide_parameters": True,
        # Not for the writer: its SQLite connection, too, looks like one in autocommit.
        "skip_autocommit_rollback": bool(reads),
    }
    if url.get_backend_name() == SQLITE:
        # Shorter than the timeout, so that whoever waits hears of the lock, not of its own deadline.
        engine = create_engine(
            url, connect_args={"timeout": 0.75 * settings.timeout, "check_same_thread": False}, **common
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_nothing if reads else _begin_immediate)
        return engine
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,
            connect_args=_postgresql_arguments(settings),
            **(common | {"isolation_level": "AUTOCOMMIT"} if reads else common),
        )
    except ModuleNotFoundError:
        raise SettingsError(
            "PostgreSQL needs the package psycopg: pip install 'trireme-gateway[postgresql]'"
        ) from None
    # With the connection, so that it holds behind a pooler, too, which refuses startup options.
    milliseconds = int(settings.timeout * 1000)
    session = (
        f"SELECT set_config('statement_timeout', '{milliseconds}', false),"
        f" set_config('lock_timeout', '{milliseconds // 2}', false),"
        f" set_config('plan_cache_mode', '{'force_custom_plan' if reads else 'auto'}', false)"
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        automatic, connection.autocommit = connection.autocommit, True
        connection.execute(session)
        connection.autocommit = automatic

    return engine


def _postgresql_arguments(settings: StoreSettings) -> dict[str, Any]:
    return {
        "connect_timeout": max(2, round(settings.timeout / 2)),
        "application_name": "trireme",
        # A server whose machine is gone says nothing: these end the connection.
        "keepalives_idle": max(1, round(settings.timeout)),
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": int(settings.timeout * 1000),
    }


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # no BEGIN of its own; half a migration would stay otherwise
    # FULL: what was acknowledged outlives a power cut, too; in groups it costs no rate.
    pragmas = {
        "journal_mode": "WAL",
        "synchronous": "FULL",
        "cache_size": -_CACHE_KIB,
        "wal_autocheckpoint": _WAL_PAGES,
    }
    for name, value in pragmas.items():
        _set(connection, f"PRAGMA {name} = {value}")


def _set(connection: sqlite3.Connection, statement: str) -> None:
    """Execute ``statement``, and again while it fails with "locked".

    Switching a new database to a WAL does so at once, whatever the timeout, while another process
    does the same.
    """
    for attempt in itertools.count(1):
        try:
            connection.execute(statement).close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt == _TRIES:
                raise
        time.sleep(_PAUSE)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_nothing(_: Connection) -> None:
    """Single statements need none."""
