"""What a connection hears: its filter, the filter of each join, and how they change."""

from __future__ import annotations

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.errors import ErrorCode
from tests.support import Raw, connected

EVENTS = ("task:created", "task:approved", "agent_created", "alert", "all")


async def publish_all(publisher: Raw, room: str = "r") -> None:
    for event in EVENTS:
        await publisher.ask("publish", room=room, event=event)


async def heard(client: Raw) -> list[str | None]:
    return [event.event for event in await client.settled()]


async def test_a_new_connection_hears_everything(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        await publish_all(alice)
        assert await heard(alice) == list(EVENTS)


async def test_subscribe_narrows_then_adds(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r")
        reply = await alice.ask("subscribe", data={"events": ["task:*"]})
        assert (reply.t, reply.data) == ("reply", {"events": ["task:*"], "except": []})
        await publish_all(bob)
        assert await heard(alice) == ["task:created", "task:approved"]
        reply = await alice.ask("subscribe", data={"events": ["alert"]})
        assert reply.data == {"events": ["alert", "task:*"], "except": []}
        await publish_all(bob)
        assert await heard(alice) == ["task:created", "task:approved", "alert"]
        reply = await alice.ask("subscribe", data={"events": ["all"]})
        assert "*" in reply.data["events"]
        await publish_all(bob)
        assert await heard(alice) == list(EVENTS)


async def test_unsubscribe_makes_an_exception_of_what_was_not_subscribed(
    gateway: Gateway, codec: Codec
) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r")
        reply = await alice.ask("unsubscribe", data={"events": ["task:*"]})
        assert reply.data == {"events": ["*"], "except": ["task:*"]}
        await publish_all(bob)
        assert await heard(alice) == ["agent_created", "alert", "all"]
        # Subscribing to it again ends the exception; it is the first subscription, so it narrows.
        reply = await alice.ask("subscribe", data={"events": ["task:created"]})
        assert reply.data == {"events": ["task:created"], "except": []}
        await publish_all(bob)
        assert await heard(alice) == ["task:created"]


async def test_unsubscribe_takes_away_what_was_subscribed(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r")
        await alice.ask("subscribe", data={"events": ["task:*", "a*"]})
        reply = await alice.ask("unsubscribe", data={"events": ["task:approved", "a*"]})
        assert reply.data == {"events": ["task:*"], "except": ["task:approved"]}
        await publish_all(bob)
        assert await heard(alice) == ["task:created"]
        for everything in ("*", "all"):
            reply = await alice.ask("unsubscribe", data={"events": [everything]})
            assert reply.data == {"events": [], "except": []}
        await publish_all(bob)
        assert await heard(alice) == []


async def test_the_filter_is_over_every_origin(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        own = alice.greeting.data["connection"]
        await alice.ask("join", room="r")
        await alice.ask("subscribe", data={"events": ["yes"]})
        for event in ("no", "yes"):
            await gateway.hub.publish("acme", None, event)
            await gateway.hub.publish("acme", "r", event)
            await gateway.hub.send_to_user("acme", "alice", event)
            gateway.hub.send_to_connection("acme", own, event)
        assert await heard(alice) == ["yes"] * 4


async def test_each_join_has_its_own_filter(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r", data={"events": ["task:*", "alert"]})
        await alice.ask("join", room="s")
        for room in ("r", "s"):
            await publish_all(bob, room)
        events = await alice.settled()
        assert [event.event for event in events if event.room == "r"] == [
            "task:created",
            "task:approved",
            "alert",
        ]
        assert [event.event for event in events if event.room == "s"] == list(EVENTS)
        # What passes must pass both.
        await alice.ask("subscribe", data={"events": ["a*"]})
        for room in ("r", "s"):
            await publish_all(bob, room)
        events = await alice.settled()
        assert [event.event for event in events if event.room == "r"] == ["alert"]
        assert [event.event for event in events if event.room == "s"] == ["agent_created", "alert", "all"]


async def test_joining_again_changes_the_filter_of_the_join(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        for patterns, expected in (
            (["alert"], ["alert"]),
            ([], []),
            (["task:*"], ["task:created", "task:approved"]),
            (["all"], list(EVENTS)),
            (None, list(EVENTS)),
        ):
            data = None if patterns is None else {"events": patterns}
            assert (await alice.ask("join", room="r", data=data)).t == "reply"
            await publish_all(bob)
            assert await heard(alice) == expected, patterns
        (room,) = (await alice.ask("info")).data["rooms"]
        assert room["events"] == ["*"]
        assert (await bob.ask("presence", room="r")).data["connections"] == 1


async def test_held_back_events_count_in_the_order(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r", data={"events": ["alert"]})
        await publish_all(bob)
        await publish_all(bob)
        assert [event.seq for event in await alice.settled()] == [4, 9]


async def test_a_filter_holds_back_what_is_replayed_too(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        epoch = (await alice.ask("history", room="r")).epoch
        await publish_all(alice)
        since = {"epoch": epoch, "seq": 0}
        reply = await alice.ask("join", room="r", data={"since": since, "events": ["task:*", "alert"]})
        assert reply.data == {"recovered": True, "replayed": 3}
        assert [event.seq for event in await alice.settled()] == [1, 2, 4]
        await alice.ask("subscribe", data={"events": ["alert"]})
        reply = await alice.ask("join", room="r", data={"since": since})
        assert (reply.seq, reply.data) == (5, {"recovered": True, "replayed": 1})
        assert [event.seq for event in await alice.settled()] == [4]


async def test_filters_of_connections_do_not_touch_each_other(gateway: Gateway) -> None:
    async with (
        connected(gateway) as alice,
        connected(gateway) as alice2,
        connected(gateway, user="bob") as bob,
    ):
        for client in (alice, alice2):
            await client.ask("join", room="r")
        await alice.ask("subscribe", data={"events": ["alert"]})
        await publish_all(bob)
        assert await heard(alice) == ["alert"]
        assert await heard(alice2) == list(EVENTS)


async def test_a_filter_that_would_cost_too_much_is_refused_and_the_old_one_stays(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await alice.ask("subscribe", data={"events": ["task:*"]})
        many_stars = ["*a" * 40] * 4
        for kind, fields in (("subscribe", {}), ("unsubscribe", {}), ("join", {"room": "r"})):
            error = await alice.ask(kind, data={"events": many_stars}, **fields)
            assert (error.t, error.code) == ("error", ErrorCode.TOO_MANY_PATTERNS)
            assert error.message == "data.events: must not contain more than 128 *"
        for part in range(2):  # each is small enough, both together are not
            answer = await alice.ask("subscribe", data={"events": [f"*{part}" * 49]})
            assert answer.t == "reply"
        error = await alice.ask("subscribe", data={"events": ["*2" * 49]})
        assert (error.code, error.message) == (401, "a filter: must not contain more than 128 *")
        await alice.ask("join", room="r")
        await publish_all(alice)
        assert await heard(alice) == ["task:created", "task:approved"]
