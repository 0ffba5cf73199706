"""Each test of the store runs on SQLite in a file and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store import migrate
from tests.postgres import Postgres
from tests.store.support import Clock


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that no test may stop; each has a database of its own."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that the tests of one module may pause and kill."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def address(empty: str) -> str:
    """The address of a database with the newest schema and no row."""
    migrate(empty)
    return empty


@pytest.fixture
def time() -> Clock:
    """A clock of its own for the store."""
    return Clock()
