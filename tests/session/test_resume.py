"""A resume token brings back what a connection had: rooms, filters, positions."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from tests.memory import memory_gateway
from tests.support import Raw, connected, until


async def leave_behind(
    gateway: Gateway, codec: Codec, user: str = "alice", **claims: Any
) -> tuple[str, str, str]:
    """A connection that joined two rooms and acknowledged one; returns its token and the rooms' epochs."""
    async with connected(gateway, codec=codec, user=user, **claims) as client:
        one = await client.ask("join", room="one")
        two = await client.ask("join", room="two", data={"events": ["yes"]})
        await client.ask("unsubscribe", data={"events": ["never"]})
        for room in ("one", "two"):
            await client.ask("publish", room=room, event="yes")
        await client.ask("ack", room="one", seq=1)
        token: str = client.greeting.data["resume"]
        number = len(gateway.hub.connections)
    await until(lambda: len(gateway.hub.connections) < number)
    return token, one.epoch or "", two.epoch or ""


async def missed(gateway: Gateway) -> None:
    for event in ("yes", "no", "never", "yes"):
        for room in ("one", "two"):
            await gateway.hub.publish("acme", room, event)


async def by_room(client: Raw) -> dict[str | None, list[int | None]]:
    """The numbers that came in each room."""
    seen: dict[str | None, list[int | None]] = {}
    for event in await client.settled():
        assert event.t == "event", event
        seen.setdefault(event.room, []).append(event.seq)
    return seen


async def test_everything_comes_back(gateway: Gateway, codec: Codec) -> None:
    token, one, two = await leave_behind(gateway, codec)
    await missed(gateway)
    async with connected(gateway, codec=codec) as alice:
        assert alice.greeting.data["resume"] != token
        reply = await alice.ask("join", data={"resume": token})
        assert (reply.t, reply.room) == ("reply", None)
        assert reply.data == {
            "rooms": {
                "one": {"epoch": one, "seq": 5, "recovered": True, "replayed": 3},
                # Nothing was acknowledged there, so it goes on where it was joined.
                "two": {"epoch": two, "seq": 5, "recovered": True, "replayed": 3},
            },
            "events": ["*"],
            "except": ["never"],
        }
        assert await by_room(alice) == {"one": [2, 3, 5], "two": [1, 2, 5]}
        await missed(gateway)
        assert await by_room(alice) == {"one": [6, 7, 9], "two": [6, 9]}
        assert (await alice.ask("leave", room="two")).t == "reply"


async def test_the_client_may_know_better_where_it_stood(gateway: Gateway, codec: Codec) -> None:
    token, one, two = await leave_behind(gateway, codec)
    await missed(gateway)
    async with connected(gateway, codec=codec) as alice:
        positions = {
            "one": {"epoch": one, "seq": 4},
            "two": {"epoch": "old", "seq": 1},
            "three": {"epoch": "", "seq": 0},
        }
        reply = await alice.ask("join", data={"resume": token, "positions": positions})
        assert reply.data["rooms"]["one"] == {"epoch": one, "seq": 5, "recovered": True, "replayed": 1}
        assert reply.data["rooms"]["two"]["recovered"] is False
        assert set(reply.data["rooms"]) == {"one", "two"}
        assert await by_room(alice) == {"one": [5], "two": [1, 2, 5]}


async def test_positions_are_checked(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        for positions in ({"one": {"epoch": "e", "seq": -1}}, {"one": 5}, [], {"one": {"seq": 1}}):
            refused = await alice.ask("join", data={"resume": "x", "positions": positions})
            assert refused.code in (E.BAD_FIELD, E.MISSING_FIELD, E.NOT_FOUND)
        assert (await alice.ask("info")).data["rooms"] == []


async def test_a_token_is_good_for_its_user_only(gateway: Gateway, codec: Codec) -> None:
    token, *_ = await leave_behind(gateway, codec)
    for org, user in (("acme", "bob"), ("acme", None), ("other", "alice")):
        async with connected(gateway, org=org, user=user, codec=codec) as stranger:
            refused = await stranger.ask("join", data={"resume": token})
            assert (refused.t, refused.code) == ("error", E.NOT_FOUND)
            assert (await stranger.ask("info")).data["rooms"] == []


async def test_rooms_that_are_no_longer_permitted_stay_out(gateway: Gateway, codec: Codec) -> None:
    token, one, _ = await leave_behind(gateway, codec)
    async with connected(gateway, codec=codec, rooms={"one": ["join"]}) as alice:
        rooms = (await alice.ask("join", data={"resume": token})).data["rooms"]
        assert rooms["one"]["epoch"] == one
        assert rooms["two"]["code"] == E.FORBIDDEN and rooms["two"]["message"]
        assert [room["room"] for room in (await alice.ask("info")).data["rooms"]] == ["one"]


async def test_a_token_of_an_open_connection_is_not_known_yet(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway) as alice2:
        await alice.ask("join", room="r")
        token = alice.greeting.data["resume"]
        assert (await alice2.ask("join", data={"resume": token})).code == E.NOT_FOUND


async def test_a_token_is_good_for_its_time(clock: MockClock) -> None:
    async with memory_gateway(connection={"resume_ttl": 60.0}) as gateway:
        tokens = []
        for _ in range(2):
            async with gateway.connect() as alice:
                await alice.ask("join", room="r")
                tokens.append(alice.greeting.data["resume"])
        await until(lambda: not gateway.hub.connections)
        async with gateway.connect() as alice:
            await trio.sleep(50)
            assert (await alice.ask("join", data={"resume": tokens[0]})).t == "reply"
            await trio.sleep(11)
            assert (await alice.ask("join", data={"resume": tokens[1]})).code == E.NOT_FOUND
