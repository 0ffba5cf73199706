"""A resume token brings back what a connection had: rooms, filters, positions."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.testing.node import run_node
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from tests.framing import TEXT, client_frame
from tests.support import Raw, connected, until
from tests.upgrade import request_head


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
        for own in ("organisation", "user"):
            assert reply.data.pop(own) == {
                **alice.greeting.data["positions"][own],
                "recovered": True,
                "replayed": 0,
            }
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


async def test_an_open_connection_is_taken_over(gateway: Gateway, codec: Codec) -> None:
    """Somebody publishes all the time: what the old one got and what the new one gets is everything, once."""
    async with (
        connected(gateway, codec=codec) as old,
        connected(gateway, codec=codec) as new,
        connected(gateway, user="bob") as bob,
    ):
        epoch = (await old.ask("join", room="r", data={"overflow": "replay"})).epoch or ""
        await old.ask("join", room="silent", data={"events": ["yes"]})
        await old.ask("subscribe", data={"events": ["e", "yes"]})
        for _ in range(10):
            await bob.ask("publish", room="r", event="e")
        seen = [
            (await old.event()).seq or 0 for _ in range(5)
        ]  # the others never reach the client, as it sees it
        positions = {"r": {"epoch": epoch, "seq": seen[-1]}}
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                for _ in range(30):
                    await bob.ask("publish", room="r", event="e")

            nursery.start_soon(publish)
            reply = await new.ask(
                "join", data={"resume": old.greeting.data["resume"], "positions": positions}
            )
        assert set(reply.data["rooms"]) == {"r", "silent"}
        assert reply.data["rooms"]["r"]["recovered"] is True
        assert reply.data["events"] == ["e", "yes"]
        assert (await old.closed()).code == 4502
        closing = old.events[-1]
        assert (closing.t, closing.code, closing.data) == ("closing", 4502, {"reconnect": False})
        seen += [event.seq or 0 for event in await new.settled()]
        assert seen == list(range(1, 41))
        rooms = {room["room"]: room["events"] for room in (await new.ask("info")).data["rooms"]}
        assert rooms == {"r": ["*"], "silent": ["yes"]}
        # The reply may be lost in its turn, so the token is still good.
        async with connected(gateway, codec=codec) as third:
            again = await third.ask("join", data={"resume": old.greeting.data["resume"]})
            assert set(again.data["rooms"]) == {"r", "silent"}


async def test_a_peer_that_says_nothing_any_more_is_taken_over(clock: MockClock) -> None:
    """It neither reads nor answers the Close; what it acknowledged is where the new one goes on."""
    async with run_node(connection={"heartbeat": 30.0, "close_timeout": 2.0}) as node:
        stream = await node.dial()
        await stream.send_all(request_head(f"/ws?token={node.token()}"))
        await stream.send_all(client_frame(TEXT, b'{"v":1,"t":"join","room":"r"}'))
        await until(lambda: node.gateway.hub.statistics.rooms("acme"))
        for _ in range(3):
            await node.gateway.hub.publish("acme", "r", "e")
        await stream.send_all(client_frame(TEXT, b'{"v":1,"t":"ack","room":"r","seq":2}'))
        (session,) = node.gateway.sessions
        place = session.connection.memberships["r"]
        await until(lambda: place.acked is not None and place.acked.seq == 2)
        async with node.raw() as new:
            reply = await new.ask("join", data={"resume": session.resume_token})
            assert reply.data["rooms"]["r"]["replayed"] == 1
            await trio.sleep(1.9)
            assert len(node.gateway.hub.connections) == 2
            await trio.sleep(0.2)
            assert list(node.gateway.hub.connections) == [new.greeting.data["connection"]]
            await node.gateway.hub.publish("acme", "r", "e")
            assert [event.seq for event in await new.settled()] == [3, 4]


async def test_only_the_same_user_takes_over(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway) as alice2:
        await alice.ask("join", room="r")
        token: str = alice.greeting.data["resume"]
        for org, user in (("acme", "bob"), ("acme", None), ("other", "alice")):
            async with connected(gateway, org=org, user=user) as stranger:
                assert (await stranger.ask("join", data={"resume": token})).code == E.NOT_FOUND
        connection = alice.greeting.data["connection"]
        for wrong in (connection, f"{connection}.", f"{connection}.{'x' * 24}", token[:-1], ".", ""):
            assert (await alice2.ask("join", data={"resume": wrong})).code == E.NOT_FOUND
        assert (await alice.ask("join", data={"resume": token})).code == E.NOT_FOUND, "its own"
        assert (await alice.ask("info")).data["rooms"][0]["room"] == "r"


async def test_an_open_connection_without_anything_is_taken_over_too(gateway: Gateway) -> None:
    async with connected(gateway) as old, connected(gateway) as new:
        reply = await new.ask("join", data={"resume": old.greeting.data["resume"]})
        assert {**reply.data, "organisation": 0, "user": 0} == {
            "rooms": {},
            "events": ["*"],
            "except": [],
            "organisation": 0,
            "user": 0,
        }
        assert (await old.closed()).code == 4502


async def test_a_token_is_good_for_its_time(clock: MockClock) -> None:
    async with run_node(connection={"resume_ttl": 60.0}) as node:
        tokens = []
        for _ in range(2):
            async with node.raw() as alice:
                await alice.ask("join", room="r")
                tokens.append(alice.greeting.data["resume"])
        await until(lambda: not node.gateway.hub.connections)
        async with node.raw() as alice:
            await trio.sleep(50)
            assert (await alice.ask("join", data={"resume": tokens[0]})).t == "reply"
            await trio.sleep(11)
            assert (await alice.ask("join", data={"resume": tokens[1]})).code == E.NOT_FOUND


async def test_many_rooms_are_left_a_few_at_a_time_and_all_come_back(gateway: Gateway) -> None:
    rooms = [f"r{number}" for number in range(300)]
    seen: set[int] = set()

    async def watch() -> None:
        while gateway.hub.connections:
            seen.update(len(each.memberships) for each in gateway.hub.connections.values())
            await trio.lowlevel.checkpoint()

    async with connected(gateway) as client:
        for room in rooms:
            await client.ask("join", room=room)
        token = client.greeting.data["resume"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await client.socket.aclose()
    assert len(seen & {236, 172, 108, 44}) >= 2, "others had their turn in between"
    assert gateway.hub.census()["rooms"] == 0
    async with connected(gateway) as again:
        reply = await again.ask("join", data={"resume": token})
        assert sorted(reply.data["rooms"]) == sorted(rooms)
