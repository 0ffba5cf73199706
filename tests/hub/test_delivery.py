"""Who gets what: broadcasts, sends, exclusion, and what is left when everybody is gone."""

from __future__ import annotations

import pytest
import trio

from gateway.app import Gateway
from gateway.hub.connection import Connection
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.errors import CloseCode, ProtocolError
from protocol.errors import ErrorCode as E
from protocol.json import JSON
from tests.support import Raw, all_connected, connected, running_gateway, until


async def heard(client: Raw) -> list[str | None]:
    return [event.event for event in await client.settled()]


async def test_a_broadcast_reaches_the_whole_organisation_without_a_join(
    gateway: Gateway, codec: Codec
) -> None:
    async with (
        connected(gateway, codec=codec, roles=["service"]) as service,
        connected(gateway, user="bob", codec=codec) as bob,
        connected(gateway, user=None, codec=codec) as nobody,
        connected(gateway, org="other", codec=codec) as stranger,
    ):
        reply = await service.ask("publish", event="system_alert", data={"level": 3}, mid="m1")
        assert (reply.t, reply.room, reply.seq, reply.mid) == ("reply", None, 1, "m1")
        second = await service.ask("publish", event="again")
        assert (second.seq, second.epoch) == (2, reply.epoch)
        for client in (service, bob, nobody):
            first, then = await client.settled()
            assert (first.event, first.data, first.room) == ("system_alert", {"level": 3}, None)
            assert first.mid == "m1"
            assert (first.seq, first.epoch, first.sender) == (1, reply.epoch, "alice")
            assert (then.event, then.seq) == ("again", 2)
        assert await heard(stranger) == []


async def test_members_may_not_broadcast(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        assert (await alice.ask("publish", event="e")).code == E.FORBIDDEN
        assert await heard(bob) == []


async def test_exclude_leaves_users_out(gateway: Gateway, codec: Codec) -> None:
    users = ["alice", "alice", "bob", "carol", None]
    async with all_connected(gateway, users, codecs=(codec,)) as clients:
        for client in clients:
            await client.ask("join", room="r")
        left_out = frozenset({"alice", "carol", "x"})
        position = await gateway.hub.publish("acme", "r", "in:room", exclude=left_out)
        await gateway.hub.publish("acme", None, "to:all", exclude=frozenset({"bob"}))
        await gateway.hub.publish("acme", "r", "for:everybody", exclude=frozenset())
        alice, alice2, bob, carol, nobody = clients
        for client in (alice, alice2, carol):
            assert await heard(client) == ["to:all", "for:everybody"]
        assert await heard(bob) == ["in:room", "for:everybody"]
        assert await heard(nobody) == ["in:room", "to:all", "for:everybody"]
        # Not through the back door either: neither replayed nor in the history.
        since = {"epoch": position.epoch, "seq": 0}
        assert (await alice.ask("join", room="r", data={"since": since})).data["replayed"] == 1
        assert await heard(alice) == ["for:everybody"]
        for client, names in ((alice, ["for:everybody"]), (bob, ["in:room", "for:everybody"])):
            page = (await client.ask("history", room="r")).data
            assert [event["event"] for event in page["events"]] == names


async def test_publish_from_the_inside_checks_names(gateway: Gateway) -> None:
    for room, event, mid, code in (
        ("", "e", None, E.BAD_ROOM),
        ("r*", "e", None, E.BAD_ROOM),
        ("r", "", None, E.BAD_EVENT),
        (None, "e\n", None, E.BAD_EVENT),
        ("r", "e", "", E.BAD_FIELD),
    ):
        with pytest.raises(ProtocolError) as refused:
            await gateway.hub.publish("acme", room, event, mid=mid)
        assert refused.value.code == code
    with pytest.raises(ProtocolError) as refused:
        await gateway.hub.send_to_user("acme", "alice", "*")
    assert refused.value.code == E.BAD_EVENT
    with pytest.raises(ProtocolError) as refused:
        await gateway.hub.send_to_user("acme", "alice", "e", mid="")
    assert refused.value.code == E.BAD_FIELD
    with pytest.raises(ProtocolError) as refused:
        gateway.hub.send_to_connection("acme", "test-1", "*")
    assert refused.value.code == E.BAD_EVENT


async def test_events_from_the_inside_arrive_without_another_command(gateway: Gateway) -> None:
    """Nothing is read meanwhile, so nothing but the publish itself can have flushed."""
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        own = alice.greeting.data["connection"]
        await gateway.hub.publish("acme", "r", "one")
        assert (await alice.event()).event == "one"
        await gateway.hub.send_to_user("acme", "alice", "two")
        assert (await alice.event()).event == "two"
        gateway.hub.send_to_connection("acme", own, "three")
        assert (await alice.event()).event == "three"


async def test_nothing_can_be_sent_to_a_connection_before_its_greeting(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id can be guessed, and to be taken in may take a while."""
    settled = gateway.hub.presence.settled

    async def send_meanwhile(connection: Connection) -> None:
        await settled(connection)
        with pytest.raises(ProtocolError) as refused:
            gateway.hub.send_to_connection("acme", connection.id, "early")
        assert refused.value.code == E.NOT_FOUND

    monkeypatch.setattr(gateway.hub.presence, "settled", send_meanwhile)
    async with connected(gateway) as alice:
        assert alice.greeting.t == "connected"
        gateway.hub.send_to_connection("acme", alice.greeting.data["connection"], "later")
        assert await heard(alice) == ["later"]


async def test_disconnect_tells_and_closes_one(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, codec=codec) as alice2:
        target = alice.greeting.data["connection"]
        for org, connection in (("other", target), ("acme", "nobody")):
            with pytest.raises(ProtocolError) as refused:
                gateway.hub.disconnect(org, connection)
            assert refused.value.code == E.NOT_FOUND
        gateway.hub.disconnect("acme", target, CloseCode.DISCONNECTED, "go away")
        close = await alice.closed()
        assert (close.code, close.reason) == (4500, "go away")
        (closing,) = alice.events
        assert (closing.t, closing.code, closing.message) == ("closing", 4500, "go away")
        assert closing.data == {"reconnect": False}
        assert (await alice2.ask("ping")).t == "pong"


async def test_closing_all_that_match(gateway: Gateway) -> None:
    async with all_connected(gateway, ["alice", "alice", "bob"]) as (alice, alice2, bob):
        closed = gateway.hub.close_matching(lambda each: each.user == "alice", 1008, "the token was revoked")
        assert closed == 2
        for client in (alice, alice2):
            assert (await client.closed()).code == 1008
        assert (await bob.ask("ping")).t == "pong"


@pytest.mark.parametrize("ending", ["close", "vanish", "protocol error", "disconnect", "malformed"])
async def test_nothing_remains_of_a_connection(gateway: Gateway, ending: str) -> None:
    hub = gateway.hub
    async with connected(gateway, user="bob") as bob:
        await bob.ask("join", room="shared")
        async with connected(gateway, org="other") as alice:
            for room in ("shared", "own"):
                await alice.ask("join", room=room)
            await alice.ask("typing", room="own")
            assert hub.statistics.of(None)["rooms"] == 3
            stream = alice.socket._stream
            match ending:
                case "close":
                    await alice.socket.aclose()
                case "vanish":
                    await trio.aclose_forcefully(stream)
                case "protocol error":
                    await stream.send_all(b"\xff\x00")
                case "disconnect":
                    hub.disconnect("other", alice.greeting.data["connection"])
                case "malformed":
                    await alice.send_raw("{")
            if ending != "vanish":
                await trio.aclose_forcefully(stream)
        await until(lambda: len(hub.connections) == 1 and gateway.listener.open == 1)
        assert set(hub.organisations) == {"acme"}
        assert set(hub.channels) == {room.channel for room in rooms_of(gateway, "acme")}
        assert len(gateway.sessions) == 1
        assert hub.statistics.of("other") | {"uptime": 0} == {
            **hub.statistics.of("nobody"),
            "org": "other",
            "uptime": 0,
            "connections_total": 1,
            "disconnections_total": 1,
            **hub.statistics.totals("other"),
        }
        assert hub.statistics.totals("other")["messages_in"] >= 3
    await until(lambda: not hub.connections)
    assert not hub.organisations and not hub.channels and not gateway.broker._subscribed


def rooms_of(gateway: Gateway, org: str) -> list:  # type: ignore[type-arg]
    organisation = gateway.hub.organisations[org]
    return [organisation.everyone, *organisation.users.values(), *organisation.rooms.values()]


async def test_both_codecs_hear_the_same(gateway: Gateway) -> None:
    data = {"a": [1, 2.5, "ü\u2028", None, {"": -(2**63)}], "b": 2**63 - 1, "c": False}
    async with connected(gateway, codec=CBOR) as one, connected(gateway, codec=JSON) as other:
        for client in (one, other):
            await client.ask("join", room="r")
        for publisher in (one, other):
            await publisher.ask("publish", room="r", event="e", data=data)
        assert await one.settled() == await other.settled()
        assert (await one.ask("history", room="r")).data == (await other.ask("history", room="r")).data


async def test_what_is_published_counts_with_its_size() -> None:
    async with running_gateway(history={"bytes": 10_000}) as gateway:
        for number in range(1, 6):
            await gateway.hub.publish("acme", "r", "e", {"n": number, "pad": "x" * 4000})
        page = await gateway.hub.history("acme", "r", limit=10)
        assert [event.data["n"] for event in page.events] == [4, 5]
        assert all(4000 < event.size < 4500 for event in page.events)


async def test_little_that_becomes_much_counts_with_what_it_becomes() -> None:
    """A map without entries is one byte of CBOR and seventy of memory."""
    async with (
        running_gateway(history={"bytes": 1_000_000}) as gateway,
        connected(gateway, codec=CBOR) as one,
    ):
        for _ in range(20):
            await one.ask("publish", room="r", event="e", data=[{}] * 5000)
        page = await gateway.hub.history("acme", "r", limit=100)
        assert len(page.events) == 2


async def test_wide_text_and_excluded_users_count_with_their_memory(gateway: Gateway) -> None:
    wide = "\U0001f600" + "x" * 10_000
    async with connected(gateway) as one:
        await one.ask("publish", room="r", event="e", data=wide)
    await gateway.hub.publish("acme", "r", "e", exclude=frozenset(f"user{n:05}" for n in range(1000)))
    sizes = [event.size for event in (await gateway.hub.history("acme", "r", limit=2)).events]
    assert sizes[0] > 4 * 10_000
    assert sizes[1] > 1000 * (49 + 9)


@pytest.mark.parametrize(("codec", "letter", "growth"), [(JSON, "y", 1), (CBOR, "\x01", 6)])
async def test_no_event_is_larger_than_clients_were_told(codec: Codec, letter: str, growth: int) -> None:
    """In the codec that makes most of it: a control character is one byte of CBOR and six of JSON."""
    limit = 65536
    async with (
        running_gateway(limits={"message_bytes": limit, "body_bytes": limit}) as gateway,
        connected(gateway, codec=codec, rooms={"*": ["publish"], "user:*": ["publish"]}) as writer,
        connected(gateway, user="bob") as reader,
    ):
        await reader.ask("join", room="r")
        whole = letter * (limit - 120)
        assert (await writer.ask("publish", room="r", event="e", data=whole)).code == E.TOO_LARGE
        assert (
            await writer.ask("send", event="e", data={"user": "bob", "data": whole[:-60]})
        ).code == E.TOO_LARGE
        with pytest.raises(ProtocolError, match="the largest message"):
            await gateway.hub.publish("acme", "r", "e", whole)
        fits = letter * ((limit - 400) // growth)
        assert (await writer.ask("publish", room="r", event="e", data=fits)).t == "reply"
        (event,) = await reader.settled()
        assert event.data == fits
