"""One gateway for all tests of the publishers, on a real port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing.server import Server, run_server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a database."""
    path = tmp_path_factory.mktemp("publisher") / "data.db"
    with run_server(database=f"sqlite:///{path}") as server:
        yield server


@pytest.fixture
def token(server: Server) -> str:
    """Of a backend."""
    return server.token(user="backend", roles=["service"])
