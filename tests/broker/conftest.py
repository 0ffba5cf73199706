"""A Redis server that the tests of a run share; each test has keys of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from tests.redis_server import RedisServer, address_of, start_cluster


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test may stop."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    trio.run(server.start)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of three primaries that no test may stop or change."""
    servers: list[RedisServer] = []
    try:
        trio.run(start_cluster, servers, tmp_path_factory.mktemp("cluster"))
        yield address_of(servers)
    finally:
        for server in servers:
            server.stop()
