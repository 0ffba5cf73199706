"""What nodes must agree in: settings that decide what is kept, and the time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog.testing
import trio

from gateway.app import Gateway
from gateway.cluster import membership
from tests.cluster.test_leases import stalled
from tests.cluster.test_presence import watching
from tests.cluster.together import client, knows, together
from tests.redis_server import RedisServer, redis_server
from tests.support import start_gateway, until

SET_AHEAD = """
local ahead = redis.call('TIME')[1] * 1000 + 3600000
redis.call('HSET', KEYS[2], 'beat', string.format('%.0f', ahead))
for _, lease in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('ZADD', KEYS[1], string.format('%.0f', ahead), lease)
end
"""


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server of the test's own."""
    async with redis_server(tmp_path / "redis") as server:
        yield server


async def readiness(node: Gateway) -> dict[str, Any]:
    """What a good answer to ``/readyz`` says."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{node.port}/readyz")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_settings_that_differ_are_named_in_the_log_the_readiness_and_the_metrics(
    shared_redis: RedisServer,
) -> None:
    async with together(shared_redis, "n1", history={"messages": 100}) as (n1,):
        assert await readiness(n1) == {"status": "ready"}
        async with trio.open_nursery() as nursery:
            with structlog.testing.capture_logs() as logs:
                n2 = await start_gateway(
                    nursery,
                    node="n2",
                    broker=n1.settings.broker,
                    redis={"prefix": n1.settings.redis.prefix},
                    cluster={"lease": 10.0},
                    history={"messages": 50, "age": 60.0},
                )
                await knows(n1, 2)
                await knows(n2, 2)
            for node, other in ((n1, n2), (n2, n1)):
                assert await readiness(node) == {
                    "status": "ready",
                    "detail": f"node {other.id} has different settings: history.age, history.messages",
                }
                assert node.cluster.measures()["cluster_settings_differ"][1] == 1
            said = {
                (entry["node"], entry["setting"], entry["here"], entry["there"])
                for entry in logs
                if entry["log_level"] == "warning" and "setting" in entry
            }
            assert {
                (n2.id, "history.messages", "100", "50"),
                (n1.id, "history.messages", "50", "100"),
            } <= said
            assert len(said) == 4
            n2.stop()
            await knows(n1, 1)
        assert await readiness(n1) == {"status": "ready"}
        assert n1.cluster.measures()["cluster_settings_differ"][1] == 0


@pytest.mark.parametrize(("ahead", "where"), [(3600.0, "ahead of"), (-3600.0, "behind")])
async def test_a_clock_that_differs_by_more_than_the_leeway_is_named(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, ahead: float, where: str
) -> None:
    async with together(shared_redis, "n1", auth={"leeway": 60.0}) as (n1,):
        registry = n1.cluster.membership  # type: ignore[attr-defined]

        async def beat(by: float) -> None:
            clock = SimpleNamespace(time=lambda: time.time() + by, monotonic=time.monotonic)
            monkeypatch.setattr(membership, "time", clock)
            before = registry.renewed_at
            registry.hurry()
            await until(lambda: registry.renewed_at > before)

        with structlog.testing.capture_logs() as logs:
            await beat(ahead / 120)  # half of what is allowed
            assert await readiness(n1) == {"status": "ready"}
            for _ in range(2):
                await beat(ahead)
            answer = await readiness(n1)
            detail = answer["detail"]
            assert detail.startswith("the clock of this node is ") and detail.endswith(
                f"{where} that of Redis"
            )
            assert abs(n1.cluster.measures()["cluster_clock_skew_seconds"][1] - ahead) < 60
            await beat(0.0)
            assert await readiness(n1) == {"status": "ready"}
        assert len([entry for entry in logs if "seconds" in entry]) == 1, "said once"


async def test_leases_end_in_time_after_the_clock_of_redis_was_set_back(redis: RedisServer) -> None:
    async with together(redis, "n1", "n2", cluster={"lease": 2.0}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")
            n2.cluster.membership._beat = stalled  # type: ignore[attr-defined]
            keys = [n1.broker.client.key(name, "cluster") for name in ("leases", "state")]  # type: ignore[attr-defined]
            await redis.ask("EVAL", SET_AHEAD, 2, *keys)
            # The lease of the node that says nothing would be good for another hour.
            assert await alice.told() == ("r", "leave", "bob")
            assert n1.cluster.membership.lost == 0  # type: ignore[attr-defined]
