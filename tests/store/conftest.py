"""Each test of the store runs on SQLite in a file and on a real PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from gateway.app import Gateway
from gateway.store import migrate
from tests.postgres import Postgres
from tests.rest.api import Api, asking
from tests.store.support import Clock
from tests.support import start_gateway


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


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the newest schema and no row, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "store.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def empty(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without a table."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def address(database: str, request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path) -> str:
    """The address of a database with the newest schema and no row."""
    if database == "sqlite":
        return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'store.db')}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.migrated()


@pytest.fixture
def time() -> Clock:
    """A clock of its own for the store."""
    return Clock()


@pytest.fixture
async def gateway(nursery: trio.Nursery, address: str) -> AsyncIterator[Gateway]:
    """A running gateway on that database."""
    yield await start_gateway(nursery, database=address)


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    """Its REST interface."""
    async with asking(gateway) as found:
        yield found
