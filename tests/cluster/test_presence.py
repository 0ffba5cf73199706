"""Presence over several nodes."""

from __future__ import annotations

from tests.cluster.together import client, rest, together
from tests.redis_server import RedisServer


async def watching(who: object, room: str = "r") -> list[str]:
    """Join with presence; returns the users in the room."""
    reply = await who.ask("join", room=room, data={"presence": True})  # type: ignore[attr-defined]
    assert reply["t"] == "reply", reply
    users: list[str] = reply["data"]["users"]
    return users


async def test_presence_is_that_of_all_nodes(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", "n3") as (n1, n2, n3):
        async with (
            client(n1) as alice,
            client(n2) as also,
            client(n2, "bob") as bob,
            client(n3, None) as nobody,
        ):
            for each in (alice, also, bob, nobody):
                await each.ask("join", room="r")
            expected = {
                "members": [{"user": "alice", "connections": 2}, {"user": "bob", "connections": 1}],
                "connections": 4,
            }
            for each in (alice, bob, nobody):
                assert (await each.ask("presence", room="r"))["data"] == expected
            assert await rest(n3, "/rooms/r/presence") == {"room": "r", **expected}
            await also.ask("leave", room="r")
        assert await rest(n3, "/rooms/r/presence") == {"room": "r", "members": [], "connections": 0}


async def test_a_user_on_two_nodes_joins_once_and_leaves_with_the_last(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", "n3") as (n1, n2, n3):
        async with client(n1) as alice:
            assert await watching(alice) == ["alice"]
            async with client(n2, "bob") as first, client(n3, "bob") as second:
                await first.ask("join", room="r")
                assert await alice.told() == ("r", "join", "bob")
                await second.ask("join", room="r")
                # Whoever comes next is told next, so bob was not told twice.
                async with client(n3, "carol") as carol:
                    assert await watching(carol) == ["alice", "bob", "carol"]
                    assert await alice.told() == ("r", "join", "carol")
                    await first.ask("leave", room="r")
                assert await alice.told() == ("r", "leave", "carol")
                await second.ask("leave", room="r")
                assert await alice.told() == ("r", "leave", "bob")
            await alice.quiet()
