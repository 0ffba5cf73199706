"""Presence over several nodes."""

from __future__ import annotations

import contextlib

import pytest
import trio

from tests.cluster.together import client, rest, together
from tests.redis_server import RedisServer
from tests.support import DEADLINE


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
                with trio.fail_after(DEADLINE):  # the other nodes say so a moment after the join
                    while (await each.ask("presence", room="r"))["data"] != expected:  # noqa: ASYNC110
                        await trio.sleep(0.02)
            assert await rest(n3, "/rooms/r/presence") == {"room": "r", **expected}
            await also.ask("leave", room="r")
        empty = {"room": "r", "members": [], "connections": 0}
        with trio.fail_after(DEADLINE):  # their nodes say so a moment after they are gone
            while await rest(n3, "/rooms/r/presence") != empty:  # noqa: ASYNC110
                await trio.sleep(0.02)


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


async def test_who_was_greeted_can_be_found_from_every_node(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        sync = n2.hub.presence.sync  # type: ignore[attr-defined]
        state = sync._state_some

        async def slow() -> None:
            await trio.sleep(0.2)
            await state()

        monkeypatch.setattr(sync, "_state_some", slow)
        async with client(n2) as alice:
            assert (await rest(n1, "/users/alice/send", {"event": "x"}))["connections"] == 1
            assert (await alice.next())["event"] == "x"


async def test_many_that_go_at_once_are_all_told(shared_redis: RedisServer) -> None:
    limits = {"queue_messages": 100}
    async with together(shared_redis, "n1", "n2", limits=limits) as (n1, n2), client(n1) as alice:
        await watching(alice)
        async with contextlib.AsyncExitStack() as others:
            names = [f"u{number:03}" for number in range(130)]
            for name in names:
                other = await others.enter_async_context(client(n2, name))
                await other.ask("join", room="r")
            assert [await alice.told() for _ in names] == [("r", "join", name) for name in names]
            lease = n2.cluster.membership.lease  # type: ignore[attr-defined]
            await n1.hub.presence.sync.remove(lease)  # type: ignore[attr-defined]
            assert sorted([await alice.told() for _ in names]) == [("r", "leave", name) for name in names]
