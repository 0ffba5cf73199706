"""Typing, which stops by itself; on a virtual clock."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.testing.node import run_node
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.support import Raw


async def said(client: Raw) -> list[tuple[str | None, Any]]:
    return [(event.event, event.data) for event in await client.settled()]


def about(user: str, *states: str) -> list[tuple[str, dict[str, str]]]:
    return [(f"typing:{state}", {"user": user}) for state in states]


async def in_room(*clients: Raw, room: str = "r") -> None:
    for client in clients:
        await client.ask("join", room=room)


async def test_the_others_hear_start_and_stop(clock: MockClock, codec: Codec) -> None:
    async with (
        run_node() as node,
        node.raw(codec=codec) as alice,
        node.raw(codec=codec) as alice2,
        node.raw(user="bob", codec=codec) as bob,
        node.raw(user="carol", codec=codec) as carol,
    ):
        await in_room(alice, alice2, bob)
        reply = await alice.ask("typing", room="r")
        assert (reply.t, reply.room, reply.data) == ("reply", "r", None)
        event = await bob.event()
        assert (event.room, event.event, event.data) == ("r", "typing:start", {"user": "alice"})
        assert (event.seq, event.epoch, event.sender) == (None, None, "alice")
        await alice.ask("typing", room="r", data={"state": "stop"})
        assert await said(bob) == about("alice", "stop")
        for client in (alice, alice2, carol):
            assert await said(client) == []
        # It has no place in the room's order, and no history.
        assert (await bob.ask("history", room="r")).seq == 0


async def test_typing_stops_by_itself(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        await in_room(alice, bob)
        begun = trio.current_time()
        await alice.ask("typing", room="r", data={"state": "start"})
        assert (await bob.event()).event == "typing:start"
        assert (await bob.event()).event == "typing:stop"
        assert trio.current_time() - begun == pytest.approx(5.0, abs=0.1)
        await trio.sleep(20)
        assert await said(bob) == []


async def test_starting_again_prolongs_without_a_second_event(clock: MockClock) -> None:
    async with (
        run_node(connection={"typing_timeout": 3.0}) as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        await in_room(alice, bob)
        begun = trio.current_time()
        for _ in range(5):
            await alice.ask("typing", room="r")
            await trio.sleep(2)
        assert await said(bob) == about("alice", "start")
        assert (await bob.event()).event == "typing:stop"
        assert trio.current_time() - begun == pytest.approx(4 * 2 + 3.0, abs=0.1)


async def test_each_room_has_its_own_time(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        for room in ("one", "two"):
            await in_room(alice, bob, room=room)
        begun = trio.current_time()
        await alice.ask("typing", room="one")
        await trio.sleep(3)
        await alice.ask("typing", room="two")
        seen = []
        for _ in range(4):
            event = await bob.event()
            seen.append((event.room, event.event, round(trio.current_time() - begun)))
        assert sorted(seen, key=lambda each: each[2]) == [
            ("one", "typing:start", 3),  # read only after the pause
            ("two", "typing:start", 3),
            ("one", "typing:stop", 5),
            ("two", "typing:stop", 8),
        ]


async def test_stop_without_start_says_nothing(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        await in_room(alice, bob)
        for _ in range(2):
            assert (await alice.ask("typing", room="r", data={"state": "stop"})).t == "reply"
        assert await said(bob) == []


async def test_a_user_types_as_long_as_one_of_the_connections_does(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw() as first,
        node.raw() as second,
        node.raw(user="bob") as bob,
    ):
        await in_room(first, second, bob)
        await first.ask("typing", room="r")
        await second.ask("typing", room="r")
        await first.ask("typing", room="r", data={"state": "stop"})
        assert await said(bob) == about("alice", "start")
        await second.ask("typing", room="r", data={"state": "stop"})
        assert await said(bob) == about("alice", "stop")
        await first.ask("typing", room="r")
        await trio.sleep(3)
        await second.ask("typing", room="r")
        await first.ask("leave", room="r")
        begun = trio.current_time()
        assert await said(bob) == about("alice", "start")
        assert (await bob.event()).event == "typing:stop"
        assert trio.current_time() - begun == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("ending", ["leave", "close", "vanish", "disconnect"])
async def test_typing_stops_with_the_membership(clock: MockClock, ending: str) -> None:
    async with run_node() as node, node.raw(user="bob") as bob:
        begun = trio.current_time()
        async with node.raw() as alice:
            await in_room(alice, bob)
            await alice.ask("typing", room="r")
            assert (await bob.event()).event == "typing:start"
            match ending:
                case "leave":
                    await alice.ask("leave", room="r")
                case "close":
                    await alice.socket.aclose()
                case "vanish":
                    await trio.aclose_forcefully(alice.socket._stream)
                case "disconnect":
                    node.gateway.hub.disconnect("acme", alice.greeting.data["connection"])
            assert (await bob.event()).event == "typing:stop"
        assert trio.current_time() - begun < 3
        await trio.sleep(20)
        assert await said(bob) == []


async def test_typing_obeys_filters(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        await in_room(alice, bob)
        await bob.ask("unsubscribe", data={"events": ["typing:*"]})
        await alice.ask("typing", room="r")
        await trio.sleep(10)
        assert await said(bob) == []


async def test_someone_without_a_user_types_as_a_connection(clock: MockClock) -> None:
    async with (
        run_node() as node,
        node.raw(user=None) as nobody,
        node.raw(user=None) as other,
    ):
        await in_room(nobody, other)
        await nobody.ask("typing", room="r")
        event: Envelope = await other.event()
        assert event.data == {"connection": nobody.greeting.data["connection"]}
        assert await said(nobody) == []


async def test_nothing_of_it_remains(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await in_room(alice)
        await alice.ask("typing", room="r")
        (session,) = node.gateway.sessions
        await trio.sleep(6)
        assert not session.typing
        assert session.deadline > trio.current_time() + 60 or math.isinf(session.deadline)
