"""What is asked of all nodes through one: sends, closing, lists and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect

from tests.cluster.together import Client, client, request, rest, together
from tests.redis_server import RedisServer, address_of, redis_cluster
from tests.support import DEADLINE


async def closed(who: Client) -> int | None:
    """The code with which the server closes; what comes before it is kept."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            who.kept.append(await who.receive())
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


async def test_a_user_is_reached_on_every_node_once(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", "n3") as (n1, n2, n3):
        async with client(n1, "bob") as sender, client(n1) as one, client(n2) as two, client(n2) as three:
            reply = await sender.ask("send", event="hello", data={"user": "alice", "data": 1}, mid="m1")
            assert (reply["t"], reply["data"], reply["mid"]) == ("reply", {"connections": 3}, "m1")
            for each in (one, two, three):
                event = await each.next()
                assert (event["event"], event["data"], event["mid"], event["sender"]) == (
                    "hello",
                    1,
                    "m1",
                    "bob",
                )
                await each.quiet()
            await sender.quiet()
            answer = await rest(n3, "/users/alice/send", {"event": "again"})
            assert answer["connections"] == 3
            await two.ask("unsubscribe", data={"events": ["again"]})
            assert (await rest(n3, "/users/alice/send", {"event": "again"}))["connections"] == 2
        assert (await rest(n1, "/users/nobody/send", {"event": "x"}))["connections"] == 0
        assert (await rest(n1, "/users/bob/send?org=other", {"event": "x"}, roles=["admin"]))[
            "connections"
        ] == 0


async def test_a_connection_is_reached_and_closed_from_any_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1, "bob") as bob, client(n2) as alice:
            id = alice.greeting["connection"]
            reply = await bob.ask("send", event="hello", data={"connection": id, "data": 1})
            assert reply["data"] == {"connections": 1}
            assert (await alice.next())["event"] == "hello"
            assert (await rest(n1, f"/connections/{id}"))["user"] == "alice"
            assert (await request(n1, f"/connections/{id}?org=other", roles=["admin"])).status_code == 404

            path = f"/connections/{id}/disconnect"
            refused = await request(n1, path, {}, user="bob", roles=[])
            assert (refused.status_code, refused.json()["code"]) == (403, 202)
            own = await rest(n1, path, {"code": 4321, "reason": "moved"}, user="alice", roles=[])
            assert own == {"connection": id, "code": 4321}
            assert await closed(alice) == 4321
            for path, body in ((f"/connections/{id}", None), (f"/connections/{id}/send", {"event": "x"})):
                assert (await request(n1, path, body)).json()["code"] == 109
        assert (await request(n1, "/connections/n9-abcdef-1")).json()["code"] == 109


async def test_connections_of_all_nodes_are_listed_page_by_page(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", "n3") as (n1, n2, n3):
        async with client(n1, "a") as a, client(n2, "b") as b, client(n3, "c") as c, client(n1, "d") as d:
            await c.ask("join", room="r")
            ids = [each.greeting["connection"] for each in (a, b, c, d)]
            assert len(set(ids)) == 4
            found, path = [], "/connections?limit=2"
            while path:
                page = await rest(n2, path)
                assert len(page["connections"]) == 2 and "missing" not in page
                found += [each["connection"] for each in page["connections"]]
                path = page.get("next") and f"/connections?limit=2&cursor={page['next']}"
            assert found == ids
            assert [
                each["connection"] for each in (await rest(n1, "/connections?room=r"))["connections"]
            ] == [ids[2]]
            assert [each["node"] for each in (await rest(n1, "/connections?user=b"))["connections"]] == ["n2"]
            seen = (await rest(n1, "/connections", user="b", roles=[]))["connections"]
            assert [("ip" in each) for each in seen] == [False, True, False, False]


async def test_rooms_of_all_nodes_are_listed_with_each_user_once(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1, "a") as a, client(n2, "a") as also, client(n2, "b") as b:
            for who, room in ((a, "both"), (also, "both"), (b, "both"), (a, "first"), (b, "second")):
                await who.ask("join", room=room)
            await a.ask("publish", room="both", event="e")
            assert (await also.next())["event"] == "e"
            listed = [("both", 3, 2), ("first", 1, 1), ("second", 1, 1)]

            async def rooms() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await rest(n1, "/rooms"))["rooms"]
                return found

            with trio.fail_after(DEADLINE):  # users are counted a moment after the join
                while [(room["room"], room["members"], room["users"]) for room in await rooms()] != listed:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert (await rooms())[0]["seq"] == 1
            page = await rest(n2, "/rooms?limit=1")
            assert [room["room"] for room in page["rooms"]] == ["both"]
            page = await rest(n2, f"/rooms?limit=1&cursor={page['next']}")
            assert [room["room"] for room in page["rooms"]] == ["first"]
            some = await rest(n2, "/rooms?limit=1", roles=[], rooms={"s*": ["presence"]})
            assert [room["room"] for room in some["rooms"]] == ["second"]


async def test_stats_are_of_the_node_and_of_the_whole(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with (
            client(n1) as one,
            client(n2) as two,
            client(n2, "bob") as bob,
            client(n2, "eve", org="other"),
        ):
            for each in (one, two, bob):
                await each.ask("join", room="r")
            for stats in (await rest(n1, "/stats"), (await one.ask("stats"))["data"]):
                assert (stats["node"], stats["connections"], stats["users"]) == ("n1", 1, 1)
                assert stats["rooms"] == {"r": 1}
                whole = stats["cluster"]
                assert (whole["connections"], whole["users"], whole["rooms"]) == (3, 2, {"r": 3})
                assert whole["messages_in"] > stats["messages_in"] and whole["missing"] == []
                assert [(node["node"], node["connections"]) for node in whole["nodes"]] == [
                    ("n1", 1),
                    ("n2", 2),
                ]
                assert whole["nodes"][1]["address"] == f"127.0.0.1:{n2.port}"
            everything = await rest(n2, "/stats", roles=["admin"])
            assert everything["organisations"] == {"acme": 2, "other": 1}
            assert everything["cluster"]["organisations"] == {"acme": 3, "other": 1}
            narrow = await rest(n1, "/stats", roles=[], rooms={"x": ["presence"]})
            assert narrow["rooms"] == {} == narrow["cluster"]["rooms"]


async def test_two_nodes_of_one_name_are_told_apart(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n", "n") as (n1, n2):
        async with client(n1) as one, client(n2) as two:
            ids = [each.greeting["connection"] for each in (one, two)]
            assert ids[0] != ids[1]
            for id in ids:
                assert (await rest(n1, f"/connections/{id}/send", {"event": "x"}))["connections"] == 1
            for each in (one, two):
                assert (await each.next())["event"] == "x"
                await each.quiet()


async def test_typing_and_exclude_hold_on_every_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1) as alice, client(n2) as also, client(n2, "bob") as bob:
            for each in (alice, also, bob):
                await each.ask("join", room="r")
            await alice.ask("typing", room="r")
            message = await bob.next()
            assert (message["event"], message["data"]) == ("typing:start", {"user": "alice"})
            await rest(n1, "/broadcast", {"room": "r", "event": "e", "exclude": ["bob"]})
            await rest(n1, "/broadcast", {"room": "r", "event": "f"})
            assert [(await also.next())["event"] for _ in range(2)] == ["e", "f"]
            assert (await bob.next())["event"] == "f"


async def test_a_resume_token_is_good_on_another_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1) as alice:
            await alice.ask("join", room="r")
            token = alice.greeting["resume"]
        await rest(n1, "/broadcast", {"room": "r", "event": "missed"})
        async with client(n2) as alice:
            reply = await alice.ask("join", data={"resume": token})
            assert reply["data"]["rooms"]["r"]["replayed"] == 1
            assert (await alice.next())["event"] == "missed"


async def test_an_open_connection_is_taken_over_from_another_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        async with client(n1) as old:
            await old.ask("join", room="r")
            async with client(n2) as new, client(n2, "bob") as bob:
                stolen = await bob.ask("join", data={"resume": old.greeting["resume"]})
                assert stolen["code"] == 109
                reply = await new.ask("join", data={"resume": old.greeting["resume"]})
                assert list(reply["data"]["rooms"]) == ["r"]
                assert await closed(old) == 4502


async def test_a_message_is_traced_on_all_nodes(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", trace={"messages": 10}) as (n1, n2):
        async with client(n1) as alice, client(n2, "bob") as bob:
            for each in (alice, bob):
                await each.ask("join", room="r")
            mid = (await alice.ask("publish", room="r", event="e"))["mid"]
            for each in (alice, bob):
                assert (await each.next())["mid"] == mid
            trace = await rest(n1, f"/messages/{mid}/trace")
            assert sorted(each["user"] for each in trace["recipients"]) == ["alice", "bob"]
            one = await rest(n1, f"/messages/{mid}/trace?user=bob")
            assert [each["connection"] for each in one["recipients"]] == [bob.greeting["connection"]]


async def test_all_of_it_holds_over_a_redis_cluster(tmp_path: Path) -> None:
    async with redis_cluster(tmp_path) as servers:
        async with together(servers[0], "n1", "n2", broker=address_of(servers)) as (n1, n2):
            async with client(n1) as alice, client(n2, "bob") as bob:
                for number in range(12):  # rooms on every server
                    room = f"r{number}"
                    assert (await alice.ask("join", room=room, data={"presence": True}))["t"] == "reply"
                    await bob.ask("join", room=room)
                    assert await alice.told() == (room, "join", "bob")
                assert (await rest(n1, "/stats"))["cluster"]["users"] == 2
                assert (await rest(n1, "/rooms/r5/presence"))["connections"] == 2
                assert (await rest(n1, "/users/bob/send", {"event": "x"}))["connections"] == 1
                assert (await bob.next())["event"] == "x"
                id = bob.greeting["connection"]
                assert (await rest(n1, f"/connections/{id}/send", {"event": "y"}))["connections"] == 1
                ticket = (await rest(n1, "/auth/ticket", {}))["ticket"]
                async with connect(f"ws://127.0.0.1:{n2.port}/ws?ticket={ticket}", open_timeout=60):
                    pass
                assert (await rest(n1, "/auth/revoke", {"user": "bob"}))["closed"] == 1
                assert sorted([await alice.told() for _ in range(12)]) == sorted(
                    (f"r{number}", "leave", "bob") for number in range(12)
                )
