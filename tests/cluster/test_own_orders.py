"""The orders of organisations and users are the same on every node."""

from __future__ import annotations

import re

import trio

from tests.cluster.together import client, rest, together
from tests.redis_server import RedisServer
from tests.support import DEADLINE


async def test_a_place_is_the_same_on_every_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1) as one, client(n2) as two:
            assert one.greeting["positions"] == two.greeting["positions"]
            for number in range(1, 4):
                node = (n1, n2)[number % 2]
                sent = await rest(node, "/users/alice/send", {"event": "mine", "data": number})
                assert (sent["seq"], sent["connections"]) == (number, 2)
                news = await rest(node, "/broadcast", {"event": "news", "data": number})
                assert news["seq"] == number
            for each in (one, two):
                events = [await each.next() for _ in range(6)]
                for to in (None, "user"):
                    assert [event["seq"] for event in events if event.get("to") == to] == [1, 2, 3]


async def test_what_was_missed_comes_on_another_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1) as alice:
            positions, token = alice.greeting["positions"], alice.greeting["resume"]
        many = await rest(n2, "/users/send", {"event": "mine", "users": ["alice", "bob"]})
        assert many["users"]["alice"]["seq"] == positions["user"]["seq"] + 1
        await rest(n2, "/broadcast", {"event": "news"})
        async with client(n2) as alice:
            wanted = {of: {"since": place} for of, place in positions.items()}
            outcome = (await alice.ask("join", data=wanted))["data"]
            assert {of: (each["recovered"], each["replayed"]) for of, each in outcome.items()} == {
                "organisation": (True, 1),
                "user": (True, 1),
            }
            assert {(await alice.next())["event"] for _ in range(2)} == {"mine", "news"}
            with trio.fail_after(DEADLINE):
                outcome = (await alice.ask("join", data={"resume": token}))["data"]
            assert outcome["user"]["replayed"] == outcome["organisation"]["replayed"] == 1


async def test_what_is_ephemeral_reaches_all_nodes(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2), client(n1) as one, client(n2) as two:
        sent = await rest(n1, "/users/alice/send", {"event": "e", "ephemeral": True})
        assert sent["connections"] == 2 and "seq" not in sent
        for each in (one, two):
            event = await each.next()
            assert (event["to"], "seq" in event) == ("user", False)


async def test_a_thousand_users_cost_few_calls(shared_redis: RedisServer) -> None:
    """Sixteen, which are on their way together, and not one for each user."""
    async with together(shared_redis, "n1") as (n1,):
        users = [f"user{number}" for number in range(1000)]
        before = await scripts_run(shared_redis)
        sent = await rest(n1, "/users/send", {"event": "mine", "users": users})
        assert {place["seq"] for place in sent["users"].values()} == {1} and len(sent["users"]) == 1000
        assert await scripts_run(shared_redis) - before < 100, "with what the node asks by itself"


async def scripts_run(server: RedisServer) -> int:
    """How often a script was called there."""
    text = (await server.ask("INFO", "commandstats")).decode()
    return int(re.findall(r"cmdstat_evalsha:calls=(\d+)", text)[0])
