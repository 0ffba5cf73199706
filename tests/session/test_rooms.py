"""The commands of rooms: join, leave, publish, ack, presence, history. Their refusals: test_refusals.py."""

from __future__ import annotations

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.support import Raw, connected


def without_times(envelope: Envelope) -> dict[str, object]:
    """The fields that are set, except those that no test can know."""
    fields = {name: getattr(envelope, name) for name in envelope.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not None and name not in ("ts", "id")}


async def fill(raw: Raw, room: str, count: int) -> tuple[str, int]:
    """Publish ``count`` events; returns epoch and sequence number of the last one."""
    for number in range(count):
        reply = await raw.ask("publish", room=room, event=f"e:{number}", data={"number": number})
    assert reply.epoch is not None and reply.seq is not None
    return reply.epoch, reply.seq


async def test_join_tells_the_position_of_the_room(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        reply = await alice.ask("join", room="chat:42")
        assert without_times(reply) == {"t": "reply", "room": "chat:42", "seq": 0, "epoch": reply.epoch}
        assert reply.epoch
        position = await fill(alice, "chat:42", 3)
        again = await alice.ask("join", room="chat:42")
        assert (again.epoch, again.seq) == position == (reply.epoch, 3)


async def test_an_event_reaches_every_member_with_all_its_fields(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        for client in (alice, bob):
            await client.ask("join", room="chat:42")
        data = {"text": "grüße", "list": [1, -2.5, None, True], "map": {"a": {}}}
        reply = await alice.ask("publish", room="chat:42", event="message:new", data=data, mid="m-1")
        assert without_times(reply) == {
            "t": "reply",
            "room": "chat:42",
            "seq": 1,
            "epoch": reply.epoch,
            "mid": "m-1",
        }
        for client in (alice, bob):
            event = await client.event()
            assert without_times(event) == {
                "t": "event",
                "room": "chat:42",
                "event": "message:new",
                "data": data,
                "seq": 1,
                "epoch": reply.epoch,
                "mid": "m-1",
                "sender": "alice",
            }
            assert event.ts is not None and abs(event.ts - alice.greeting.ts) < 60_000  # type: ignore[operator]


async def test_a_publisher_need_not_be_in_the_room(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        await bob.ask("join", room="chat:42")
        reply = await alice.ask("publish", room="chat:42", event="message:new")
        event = await bob.event()
        assert (event.seq, event.mid, event.data) == (reply.seq, reply.mid, None)
        assert await alice.settled() == []


async def test_a_publisher_without_a_user_is_no_sender(gateway: Gateway) -> None:
    async with connected(gateway, user=None) as nobody:
        assert "user" not in nobody.greeting.data
        await nobody.ask("join", room="chat:42")
        await nobody.send("publish", room="chat:42", event="message:new")
        assert (await nobody.event()).sender is None


async def test_generated_message_ids_differ(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        mids = {(await alice.ask("publish", room="r", event="e")).mid for _ in range(20)}
        assert len(mids) == 20 and None not in mids


async def test_the_same_mid_is_one_event(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        await alice.ask("join", room="chat:42")
        first = await alice.ask("publish", room="chat:42", event="message:new", mid="again")
        await alice.ask("publish", room="chat:42", event="message:new", mid="other")
        second = await alice.ask("publish", room="chat:42", event="message:new", mid="again")
        assert (first.seq, first.epoch, first.mid) == (second.seq, second.epoch, second.mid)
        assert [event.mid for event in await alice.settled()] == ["again", "other"]
        elsewhere = await alice.ask("publish", room="chat:43", event="message:new", mid="again")
        assert elsewhere.epoch != first.epoch


async def test_leave_ends_delivery(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        for client in (alice, bob):
            await client.ask("join", room="chat:42")
        assert without_times(await alice.ask("leave", room="chat:42")) == {"t": "reply", "room": "chat:42"}
        await bob.ask("publish", room="chat:42", event="message:new")
        assert await alice.settled() == []
        assert len(await bob.settled()) == 1
        assert (await alice.ask("info")).data["rooms"] == []


async def test_commands_without_id_succeed_in_silence(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        await alice.send("join", room="chat:42")
        await alice.send("subscribe", data={"events": ["message:*"]})
        await alice.send("publish", room="chat:42", event="message:new")
        await alice.send("ack", room="chat:42", seq=1)
        for kind in ("history", "presence", "typing"):
            await alice.send(kind, room="chat:42")
        await alice.send("info")
        await alice.send("stats")
        await alice.send("send", event="message:x", data={"user": "nobody"})
        await alice.send("unsubscribe", data={"events": ["message:x"]})
        await alice.send("leave", room="chat:42")
        only = await alice.settled()
        assert [(event.t, event.event) for event in only] == [("event", "message:new")]


async def test_ack_notes_the_furthest_position(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        await alice.ask("join", room="chat:42")
        epoch, _ = await fill(alice, "chat:42", 5)
        for seq, noted in ((3, 3), (5, 5), (4, 5)):
            reply = await alice.ask("ack", room="chat:42", seq=seq)
            assert without_times(reply) == {"t": "reply", "room": "chat:42", "epoch": epoch, "seq": noted}
        (room,) = (await alice.ask("info")).data["rooms"]
        assert room == {"room": "chat:42", "seq": 5, "events": ["*"], "acked": 5}


async def test_presence_counts_users_and_connections(gateway: Gateway, codec: Codec) -> None:
    async with (
        connected(gateway, codec=codec) as alice,
        connected(gateway) as alice2,
        connected(gateway, user="bob") as bob,
        connected(gateway, user=None) as nobody,
        connected(gateway, org="other") as stranger,
    ):
        for client in (alice, alice2, bob, nobody, stranger):
            await client.ask("join", room="chat:42")
        reply = await alice.ask("presence", room="chat:42")
        assert without_times(reply) == {
            "t": "reply",
            "room": "chat:42",
            "data": {
                "members": [{"user": "alice", "connections": 2}, {"user": "bob", "connections": 1}],
                "connections": 4,
            },
        }
        await alice2.ask("leave", room="chat:42")
        reply = await bob.ask("presence", room="chat:42")
        assert reply.data["members"][0] == {"user": "alice", "connections": 1}
        empty = await bob.ask("presence", room="nobody-here")
        assert empty.data == {"members": [], "connections": 0}


async def test_history_gives_the_newest_oldest_first(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        epoch, _ = await fill(alice, "chat:42", 5)
        reply = await alice.ask("history", room="chat:42", data={"limit": 2})
        assert (reply.room, reply.epoch, reply.seq) == ("chat:42", epoch, 5)
        assert reply.data["complete"] is True and reply.data["more"] is False
        for event, seq in zip(reply.data["events"], (4, 5), strict=True):
            assert event.pop("ts") and event.pop("mid")
            assert event == {
                "seq": seq,
                "event": f"e:{seq - 1}",
                "data": {"number": seq - 1},
                "sender": "alice",
            }


async def test_history_in_pages_has_no_hole_and_no_duplicate(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        epoch, _ = await fill(alice, "chat:42", 10)
        seen: list[int] = []
        more = True
        while more:
            since = {"epoch": epoch, "seq": seen[-1] if seen else 0}
            page = (await alice.ask("history", room="chat:42", data={"since": since, "limit": 3})).data
            assert page["complete"] is True and 1 <= len(page["events"]) <= 3
            seen += [event["seq"] for event in page["events"]]
            more = page["more"]
        assert seen == list(range(1, 11))


async def test_history_that_is_gone_is_not_complete(codec: Codec, gateway_keeping_three: Gateway) -> None:
    async with connected(gateway_keeping_three, codec=codec) as alice:
        epoch, _ = await fill(alice, "chat:42", 10)

        async def since(seq: int, of: str = epoch) -> tuple[bool, list[int]]:
            data = {"since": {"epoch": of, "seq": seq}}
            page = (await alice.ask("history", room="chat:42", data=data)).data
            return page["complete"], [event["seq"] for event in page["events"]]

        assert await since(6) == (False, [8, 9, 10])
        assert await since(7) == (True, [8, 9, 10])
        assert await since(9) == (True, [10])
        assert await since(10) == (True, [])
        assert await since(11) == (False, [8, 9, 10])
        assert await since(9, of="another") == (False, [8, 9, 10])


async def test_history_of_an_unknown_room_is_empty(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        reply = await alice.ask("history", room="never")
        assert reply.seq == 0 and reply.epoch
        assert reply.data == {"events": [], "more": False, "complete": True}


async def test_nobody_can_guess_the_next_message_id(gateway: Gateway) -> None:
    """Who could, might publish it first and have the other's event taken for a duplicate."""
    async with connected(gateway) as alice:
        mids = [(await alice.ask("publish", room="r", event="e")).mid or "" for _ in range(16)]
        assert len({mid[:4] for mid in mids}) > 8 and len({mid[-4:] for mid in mids}) > 8


async def test_a_page_of_excluded_events_is_passed_over(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        for exclude in (["bob"], ["alice"], ["alice"], ["alice"], [], ["alice"]):
            position = await gateway.hub.publish("acme", "r", "e", exclude=frozenset(exclude))
        seen = []
        more, seq = True, 0
        while more:
            data = {"since": {"epoch": position.epoch, "seq": seq}, "limit": 1}
            page = (await alice.ask("history", room="r", data=data)).data
            seen += [event["seq"] for event in page["events"]]
            more, seq = page["more"], seen[-1]
        assert seen == [1, 5]
