"""What becomes of a node's part when it dies, stalls, stops, or when Redis is away or has lost its data."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from websockets.trio.client import connect

from gateway.app import Gateway
from gateway.broker.base import room_channel
from gateway.broker.redis.broker import RedisBroker
from gateway.cluster.scripts import REVOKE, RevokeCall, pack
from gateway.config.settings import HistorySettings, RedisSettings
from tests.cluster.test_presence import watching
from tests.cluster.together import Client, client, knows, request, rest, together
from tests.processes import Folder, Served, serving
from tests.redis_server import RedisServer, redis_server
from tests.support import DEADLINE, start_gateway, until


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server of the test's own."""
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def beside(node: Gateway, folder: Path) -> AsyncIterator[Served]:
    """Another node, in a process of its own."""
    environ = {
        "GATEWAY_AUTH_SECRET": node.settings.auth.secret,
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_BROKER": node.settings.broker,
        "GATEWAY_REDIS_PREFIX": node.settings.redis.prefix,
        "GATEWAY_CLUSTER_LEASE": str(node.settings.cluster.lease),
        "GATEWAY_NODE": "other",
    }
    async with serving(Folder(folder, environ)) as served:
        await knows(node, 2)
        yield served


@asynccontextmanager
async def client_of(served: Served, token: str) -> AsyncIterator[Client]:
    """A client of a node in another process; it does not mind that the node is killed."""
    async with connect(
        f"{served.url}?token={token}", open_timeout=60, subprotocols=["trireme.v1.json"]
    ) as socket:  # type: ignore[arg-type]
        made = Client(socket)
        made.greeting = (await made.next())["data"]
        yield made


async def left_of(name: str, node: Gateway, server: RedisServer) -> list[str]:
    """The keys that a node has left, but for what is remembered for its clients."""
    keys = [key.decode() for key in await server.ask("KEYS", f"{node.settings.redis.prefix}:*")]
    return [key for key in keys if name in key and ":note:" not in key]


async def test_the_members_of_a_killed_node_are_gone_within_its_lease(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    lease = 2.0
    async with together(shared_redis, "n1", cluster={"lease": lease}) as (n1,), client(n1) as alice:
        assert await watching(alice) == ["alice"]
        async with beside(n1, tmp_path) as served:
            token = n1.auth.issue(org="acme", user="bob").token
            both = n1.auth.issue(org="acme", user="alice").token
            async with client_of(served, token) as bob, client_of(served, both) as also:
                for each in (bob, also):
                    await each.ask("join", room="r")
                assert await alice.told() == ("r", "join", "bob")
                assert (await rest(n1, "/stats"))["cluster"]["connections"] == 3
                served.process.send_signal(signal.SIGKILL)
                killed = trio.current_time()
                assert await alice.told() == ("r", "leave", "bob")
                assert trio.current_time() - killed <= lease
        await alice.quiet()  # of herself she is told nothing: she is still there
        await knows(n1, 1)
        members = [{"user": "alice", "connections": 1}]
        assert (await rest(n1, "/rooms/r/presence"))["members"] == members
        assert (await rest(n1, "/users/bob/send", {"event": "x"}))["connections"] == 0
        assert (await rest(n1, "/stats"))["cluster"]["users"] == 1
        assert not await left_of("other-", n1, shared_redis)


async def test_a_dead_node_delays_nobody_before_its_lease_is_over(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    async with together(shared_redis, "n1", cluster={"lease": 60.0, "answer_timeout": 30.0}) as (n1,):
        async with beside(n1, tmp_path) as served:
            token = n1.auth.issue(org="acme", user="bob").token
            async with client_of(served, token) as bob:
                id = bob.greeting["connection"]
                served.process.send_signal(signal.SIGKILL)
                await served.process.wait()
            with trio.fail_after(60):
                stats = await rest(n1, "/stats")
                assert stats["cluster"]["missing"] == [id.rpartition("-")[0]]
                assert (await rest(n1, "/connections"))["missing"] == stats["cluster"]["missing"]
                assert (await rest(n1, "/users/bob/send", {"event": "x"}))["connections"] == 0
                assert (await request(n1, f"/connections/{id}")).json()["code"] == 109


async def test_a_node_that_stops_takes_back_what_it_said_at_once(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", cluster={"lease": 300.0}) as (n1,), client(n1) as alice:
        await watching(alice)
        async with trio.open_nursery() as nursery:
            n2 = await start_gateway(
                nursery,
                node="n2",
                broker=n1.settings.broker,
                redis={"prefix": n1.settings.redis.prefix},
                cluster={"lease": 300.0},
            )
            await knows(n1, 2)  # long before its next beat
            async with client(n2, "bob") as bob:
                await bob.ask("join", room="r")
                assert await alice.told() == ("r", "join", "bob")
                n2.stop()
                assert await alice.told() == ("r", "leave", "bob")
            await knows(n1, 1)
        keys = [key.decode() for key in await shared_redis.ask("KEYS", f"{n1.settings.redis.prefix}:*")]
        assert not [key for key in keys if "n2-" in key and ":note:" not in key], (
            "something of the stopped node is left"
        )


async def test_a_node_that_was_taken_for_dead_states_everything_again(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 2.0}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")
            registry = n2.cluster.membership  # type: ignore[attr-defined]
            beat, registry._beat = registry._beat, stalled
            assert await alice.told() == ("r", "leave", "bob")
            registry._beat = beat
            assert await alice.told() == ("r", "join", "bob")
            assert registry.lost >= 1
            await is_there_once(n1, alice, bob)


async def test_a_node_that_is_being_taken_for_dead_begins_a_new_lease(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 2.0}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")
            remover, registry = n1.cluster.membership, n2.cluster.membership  # type: ignore[attr-defined]
            begun, remove, old = trio.Event(), remover._remove, registry.lease
            gates = {remover: trio.Event(), registry: trio.Event()}

            async def slow(by: object, lease: str) -> None:
                begun.set()
                await gates[by].wait()
                await (remove if by is remover else own)(lease)

            own = registry._remove
            remover._remove, registry._remove = partial(slow, remover), partial(slow, registry)
            beat, registry._beat = registry._beat, stalled
            with trio.fail_after(DEADLINE):
                await begun.wait()
            registry._beat = beat
            await until(lambda: registry.lease != old and registry.lease in remover.members)
            gates[remover].set()
            await until(lambda: remover.removed == 1)
            # What was on its way while the other one cleared up is found by the node itself.
            await n2.hub.presence.sync._set(room_channel("acme", "r"), old, {"ghost": 1})  # type: ignore[attr-defined]
            assert await alice.told() == ("r", "join", "ghost")
            gates[registry].set()
            assert await alice.told() == ("r", "leave", "ghost")
            await until(lambda: registry.removed == 1)
            await is_there_once(n1, alice, bob)


async def is_there_once(node: Gateway, alice: Client, bob: Client) -> None:
    """Bob is in the room, and when he leaves it nothing of him is left."""
    await knows(node, 2)  # his node comes back to this one's list later than what it states
    assert (await rest(node, "/users/bob/send", {"event": "x"}))["connections"] == 1
    members = [{"user": "alice", "connections": 1}, {"user": "bob", "connections": 1}]
    assert (await rest(node, "/rooms/r/presence"))["members"] == members
    await alice.quiet()
    await bob.ask("leave", room="r")
    assert await alice.told() == ("r", "leave", "bob")
    assert (await rest(node, "/rooms/r/presence"))["members"] == members[:1]


async def stalled(nursery: trio.Nursery) -> None:
    """In place of a beat."""
    await trio.lowlevel.checkpoint()


async def test_while_redis_is_away_the_node_goes_on_and_says_what_it_cannot_do(redis: RedisServer) -> None:
    away = {"patience": 0.2, "timeout": 1.0, "retry_after": 0.5, "max_backoff": 0.2}
    async with together(redis, "n1", "n2", redis=away, cluster={"lease": 2.0}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob, client(n2, "carol") as carol:
            assert await watching(alice) == ["alice"]
            for each in (bob, carol):
                await each.ask("join", room="r")
                assert (await alice.told())[1] == "join"
            id = bob.greeting["connection"]
            redis.pause()
            await until(lambda: n1.broker.ready() is not None and n2.broker.ready() is not None)
            with trio.fail_after(DEADLINE):
                for path, body in (
                    ("/connections", None),
                    ("/rooms", None),
                    ("/rooms/r/presence", None),
                    (f"/connections/{id}/send", {"event": "x"}),
                    (f"/connections/{id}/disconnect", {}),
                    ("/users/bob/send", {"event": "x"}),
                    ("/auth/ticket", {}),
                    ("/auth/revoke", {"jti": "no matter"}),
                ):
                    answer = await request(n1, path, body)
                    document = answer.json()
                    assert (answer.status_code, document["code"]) == (503, 302), path
                    assert document["retry_after"] > 0 and "Retry-After" in answer.headers
                stats = await rest(n1, "/stats")
                assert stats["connections"] == 1 and stats["cluster"]["reason"]
                # What concerns this node alone goes on.
                own = alice.greeting["connection"]
                assert (await rest(n1, f"/connections/{own}/send", {"event": "here"}))["connections"] == 1
                assert (await alice.next())["event"] == "here"
                assert (await bob.ask("leave", room="r"))["t"] == "reply"
            redis.resume()
            assert await alice.told() == ("r", "leave", "bob")
            await until(lambda: n1.broker.ready() is None and n2.broker.ready() is None)
            with trio.fail_after(DEADLINE):
                while (answer := await request(n1, "/rooms/r/presence")).status_code == 503:  # noqa: ASYNC110
                    await trio.sleep(answer.json()["retry_after"])
            assert [each["user"] for each in answer.json()["members"]] == ["alice", "carol"]
            assert (await rest(n1, f"/connections/{id}/send", {"event": "back"}))["connections"] == 1
            assert (await bob.next())["event"] == "back"
            await alice.quiet()  # nobody was taken for dead: Redis was away, not the nodes


async def test_when_redis_was_away_for_longer_than_a_lease_nobody_is_taken_for_dead(
    redis: RedisServer,
) -> None:
    away = {"patience": 0.2, "timeout": 0.5, "max_backoff": 0.1}
    async with together(redis, "n1", "n2", redis=away, cluster={"lease": 2.0}) as nodes:
        n1, n2 = nodes
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")

            def age(node: Gateway) -> float:
                return node.cluster.measures()["cluster_lease_age_seconds"][1]

            redis.pause()
            await until(lambda: min(age(n1), age(n2)) > 2.0)
            redis.resume()
            # One of the two is the first to come back, and must leave the other the time to do so.
            await until(lambda: max(age(n1), age(n2)) < 1.0)
            for node in nodes:
                measures = node.cluster.measures()
                assert (
                    measures["cluster_nodes_removed_total"][1] == measures["cluster_lease_lost_total"][1] == 0
                )
            await bob.ask("leave", room="r")
            assert await alice.told() == ("r", "leave", "bob")
            await alice.quiet()


async def test_a_node_that_starts_without_redis_lets_nobody_in_before_it_knows_what_was_revoked(
    redis: RedisServer,
) -> None:
    redis.pause()
    away = {"timeout": 0.3, "patience": 0.1, "max_backoff": 0.1}
    async with trio.open_nursery() as nursery:
        node = await start_gateway(nursery, broker=redis.url, redis=away)
        answer = await request(node, "/stats")
        assert (answer.status_code, answer.json()["code"]) == (503, 302)
        assert answer.json()["retry_after"] > 0
        async with httpx.AsyncClient() as http:
            address = f"http://127.0.0.1:{node.port}/readyz"
            assert (await http.get(address)).status_code == 503
            redis.resume()
            await knows(node, 1)
            with trio.fail_after(DEADLINE):
                while (await http.get(address)).status_code == 503:  # noqa: ASYNC110
                    await trio.sleep(0.02)
        await until(lambda: node.auth.revocations.complete)
        async with client(node) as alice:
            await alice.quiet()
        nursery.cancel_scope.cancel()


async def test_when_redis_has_lost_its_data_the_nodes_state_theirs_again(redis: RedisServer) -> None:
    async with together(redis, "n1", "n2", cluster={"lease": 1.0}) as (n1, n2):
        revoked = n1.auth.issue(org="acme", user="mallory")
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")
            await rest(n1, "/auth/revoke", {"jti": revoked.jti})
            await redis.ask("FLUSHALL")
            await until(lambda: all(node.cluster.membership.lost >= 1 for node in (n1, n2)))  # type: ignore[attr-defined]

            async def present() -> list[str]:
                answer = (await request(n2, "/rooms/r/presence")).json()
                return [each["user"] for each in answer.get("members", [])]

            with trio.fail_after(DEADLINE):
                while await present() != ["alice", "bob"]:  # noqa: ASYNC110 - REST tells nobody
                    await trio.sleep(0.02)
            with trio.fail_after(DEADLINE):
                while (await rest(n1, "/users/bob/send", {"event": "x"}))["connections"] != 1:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            told = await bob.next()
            while told["t"] == "lost":  # the orders began anew
                told = await bob.next()
            assert told["event"] == "x"
            await bob.ask("leave", room="r")
            # That is the first that she is told: nobody had come or gone.
            assert [m for m in await messages(alice) if m["t"] == "presence"] == []
            assert await alice.told() == ("r", "leave", "bob")
            prefix = n1.settings.redis.prefix
            with trio.fail_after(DEADLINE):
                while not await redis.ask("ZCARD", f"{prefix}:revoked:{{cluster}}"):  # noqa: ASYNC110
                    await trio.sleep(0.02)


async def messages(who: Client) -> list[dict[str, object]]:
    """What has come until now, but for presence that follows."""
    found, who.kept = who.kept, []
    return found


async def test_a_change_that_got_lost_is_found_by_its_number(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 1.0}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob:
            await watching(alice)
            monkeypatch.setattr(n2.hub.presence.sync, "_changed", lambda channel, changes: None)  # type: ignore[attr-defined]
            await bob.ask("join", room="r")
            assert await alice.told() == ("r", "join", "bob")
            assert n1.hub.presence.repairs == 1  # type: ignore[attr-defined]


async def test_a_revocation_is_the_newest_whatever_the_clock_did(redis: RedisServer) -> None:
    """What was revoked while the clock was ahead has a higher time; nodes ask for what comes after it."""
    async with trio.open_nursery() as nursery:
        broker = RedisBroker(redis.url, RedisSettings(prefix="ahead"), HistorySettings())
        nursery.start_soon(broker.run)
        await until(lambda: broker.ready() is None)
        keys = [broker.client.key(name, "cluster") for name in ("revoked", "when", "state")]
        ahead = (time.time() + 3600) * 1000
        await broker.client.call(keys[0], b"ZADD", keys[0], f"{ahead:.0f}", "before")
        for number in range(3):
            assert (
                await broker.client.run_script(
                    REVOKE, keys, [pack(RevokeCall(f"r{number}", "1", 10**9, 100))]
                )
                == 1
            )
        found = await broker.client.call(keys[0], b"ZRANGE", keys[0], "0", "-1")
        assert found == [b"before", b"r0", b"r1", b"r2"]
        nursery.cancel_scope.cancel()
