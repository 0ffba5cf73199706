"""Where WebSocket is blocked: server-sent events, else long-poll, and back, without a gap or a repetition."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.client import (
    Backoff,
    Client,
    CommandError,
    CommandFailed,
    ConnectionFailed,
    ConnectionRefused,
    Event,
    Lost,
    PresenceChange,
)
from gateway.testing.node import run_node
from protocol.errors import ErrorCode

OPTIONS = {"reconnect": Backoff(base=0.01, maximum=0.1, tries=100), "websocket_retry": 3600.0}
OVER = {"sse": {"websocket"}, "poll": {"websocket", "sse"}}
both = pytest.mark.parametrize("kind", list(OVER))


async def take(client: Client, count: int) -> list[Event]:
    with trio.fail_after(100):
        return [await anext(client) for _ in range(count)]


async def over(client: Client, kind: str) -> None:
    """Wait until the client uses ``kind``; it says so nowhere, and the clock is virtual."""
    for _ in range(1000):
        if client.transport == kind and client.state == "connected":
            return
        await trio.sleep(0.5)
    pytest.fail(f"never over {kind}")


@both
async def test_every_command(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with (
            node.client(options=OPTIONS, roles=["service"]) as alice,
            node.client(user="bob") as bob,
        ):
            assert (alice.transport, alice.degraded, alice.state) == (kind, True, "connected")
            joined = await alice.join("chat", events=["message:*"])
            assert joined.seq == 0
            await bob.join("chat")
            published = await alice.publish("chat", "message:new", {"n": 1})
            assert (published.seq, published.epoch) == (1, joined.epoch)
            (event,) = await take(alice, 1)
            assert (event.room, event.event, event.data, event.sender) == (
                "chat",
                "message:new",
                {"n": 1},
                "alice",
            )
            await bob.publish("chat", "other")
            await bob.publish("chat", "message:new", {"n": 2})
            assert (await take(alice, 1))[0].data == {"n": 2}, "the room's filter holds"
            page = await alice.history("chat")
            assert [each.seq for each in page.events] == [1, 2, 3]
            assert (await alice.presence("chat")).connections >= 1
            assert await alice.ping() >= 0
            assert (await alice.stats())["org"] == "acme"
            assert (await alice.info())["org"] == "acme"
            await alice.ack("chat", 2)
            await alice.typing("chat")
            await alice.send("direct", {"x": 1}, user="alice")
            (event,) = await take(alice, 1)
            assert (event.event, event.to, event.data) == ("direct", "user", {"x": 1})
            assert (await alice.subscribe("last", "message:*")).events == ("last", "message:*")
            await bob.publish("chat", "message:new", {"n": 3})
            await alice.publish(None, "first")
            await alice.publish(None, "last")
            assert [each.event for each in await take(alice, 2)] == ["message:new", "last"]
            await alice.leave("chat")
            assert alice.rooms == ()
            with pytest.raises(CommandError) as caught:
                await alice.leave("chat")
            assert caught.value.code == ErrorCode.NOT_JOINED
            with pytest.raises(CommandError) as caught:
                await alice.call("nothing")
            assert caught.value.code == ErrorCode.UNKNOWN_CALL


@both
async def test_nothing_is_lost_or_repeated_while_streams_break_and_rooms_change(
    kind: str, clock: MockClock
) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client:
            await client.join("r")
            for number in range(100):
                await node.publish("r", "x", number)
                if number % 20 == 7:
                    await client.join(f"other:{number}")
                if number % 20 == 13:
                    node.cut("alice")
                    await trio.sleep(1)
            events = await take(client, 100)
            assert not any(isinstance(event, Lost) for event in events)
            assert [event.data for event in events] == list(range(100))
            assert set(client.rooms) == {"r", *(f"other:{number}" for number in range(7, 100, 20))}


@both
async def test_nothing_is_lost_while_rooms_are_entered_and_left(kind: str, clock: MockClock) -> None:
    """Each change of rooms is another request, and events come between the old one and the new."""
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client, trio.open_nursery() as nursery:
            await client.join("r")
            numbers: list[int] = []
            changing = True

            async def publish() -> None:
                while changing:
                    numbers.append(len(numbers))
                    await node.publish("r", "x", numbers[-1])
                    await node.publish(None, "news", numbers[-1])
                    await trio.sleep(0.0002)

            nursery.start_soon(publish)
            for number in range(20):
                await client.join(f"other:{number}")
                if number % 3 == 2:
                    await client.leave(f"other:{number - 1}")
            changing = False
            await trio.sleep(1)
            events = await take(client, 2 * len(numbers))
            for room in ("r", None):
                assert [event.data for event in events if event.room == room] == numbers
            assert len(numbers) >= 10


@both
async def test_what_is_published_through_cuts_counts_once(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client, node.client(user="bob") as bob:
            await bob.join("r")
            async with trio.open_nursery() as nursery:

                async def publish() -> None:
                    for number in range(60):
                        await client.publish("r", "x", number)

                nursery.start_soon(publish)
                for number in range(60):
                    assert (await take(bob, 1))[0].data == number
                    if number % 10 == 5:
                        # The answer to what bob has just got may be on its way.
                        node.cut("alice")
            assert (await client.publish("r", "x")).seq == 61
            node.down = True
            node.cut("alice")
            with pytest.raises(CommandFailed):
                await client.call("nothing", timeout=1)


@both
async def test_it_returns_to_websocket_when_that_works_again(
    kind: str, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**OPTIONS, "websocket_retry": 5.0}
    async with run_node() as node, node.client(options=options) as client:
        assert (client.transport, client.degraded) == ("websocket", False)
        await client.join("r")
        await client.subscribe("x")
        published: list[int] = []

        async def publish() -> None:
            number = len(published)
            published.append(number)
            await node.publish("r", "x", number)
            await node.publish("r", "y", number)

        with caplog.at_level(logging.WARNING, "gateway.client"):
            for _ in range(2):
                node.blocked = OVER[kind]
                await publish()
                node.cut("alice")
                await publish()
                await over(client, kind)
                await publish()
                node.blocked = set()
                while client.transport != "websocket":
                    await publish()
                    await trio.sleep(0.5)
                await publish()
        events = await take(client, len(published))
        assert [event.data for event in events] == published
        assert {event.event for event in events} == {"x"}
        assert f"blocked; using {kind} instead" in caplog.text
        assert (await client.publish("r", "x")).seq == 2 * len(published) + 1


@both
async def test_what_was_sent_to_user_and_organisation_comes_too(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client:
            for number in range(6):
                if number % 2:
                    node.down = True
                    node.cut("alice")
                    await trio.testing.wait_all_tasks_blocked()
                await node.publish(None, "news", number)
                await node.gateway.hub.send_to_user("acme", "alice", "mine", number)
                node.down = False
                await trio.sleep(1)
            events = await take(client, 12)
            assert not any(isinstance(event, Lost) for event in events)
            for to in (None, "user"):
                assert [event.data for event in events if event.to == to] == list(range(6))


@both
async def test_many_rooms_and_who_is_there(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client, node.client(user="bob") as bob:
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(client.join, f"r{number}")
            joined = await client.join("here", presence=True)
            assert joined.users is not None
            await bob.join("here")
            for number in range(40):
                await bob.publish(f"r{number}", "x", number)
            events = await take(client, 41)
            changes = [event for event in events if isinstance(event, PresenceChange)]
            assert [(change.user, change.event) for change in changes] == [("bob", "join")]
            assert sorted(event.data for event in events if event.event == "x") == list(range(40))


@both
async def test_what_is_refused(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        with pytest.raises(ConnectionRefused) as caught:
            async with node.client(token="forged"):
                pytest.fail("not connected")
        assert caught.value.status == 401
        async with node.client(rooms={"open:*": ["join"]}, options=OPTIONS) as client:
            await client.join("open:1")
            with pytest.raises(CommandError) as refused:
                await client.join("closed:1")
            assert refused.value.code == ErrorCode.FORBIDDEN
            assert client.rooms == ("open:1",)
            with pytest.raises(CommandError) as refused:
                await client.publish("open:1", "x")
            assert refused.value.code == ErrorCode.FORBIDDEN
            await node.publish("open:1", "x", 1)
            assert (await take(client, 1))[0].data == 1


@both
async def test_a_new_token(kind: str, clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = OVER[kind]
        async with node.client(options=OPTIONS) as client:
            await client.join("open")
            await client.join("closed")
            narrow = node.token(rooms={"open": ["join"]}, ttl=7000)
            refreshed = await client.refresh(narrow)
            assert refreshed.expires == client.connection.expires
            assert refreshed.left == ("closed",), "as on a WebSocket"
            assert (await client.refresh(narrow)).left == ()
            await node.publish("open", "x", 1)
            assert (await take(client, 1))[0].data == 1


async def test_what_is_not_allowed_is_not_tried(clock: MockClock) -> None:
    async with run_node() as node:
        node.blocked = {"websocket", "sse", "poll"}
        options = {"reconnect": False}
        with pytest.raises(ConnectionRefused, match="blocked"):
            async with node.client(options=options):
                pytest.fail("not connected")
        node.blocked = {"websocket"}
        with pytest.raises(ConnectionRefused, match="blocked"):
            async with node.client(options={**options, "transports": ["websocket", "poll"][:1]}):
                pytest.fail("not connected")
        async with node.client(options={**options, "transports": ["poll"]}) as client:
            assert (client.transport, client.degraded) == ("poll", False)
        node.down = True
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            async with node.client(options=options):
                pytest.fail("not connected")


@pytest.mark.parametrize("transports", [[], ["sse", "sse"], ["pigeon"]])
async def test_bad_transports(transports: list[str]) -> None:
    async with run_node() as node:
        with pytest.raises(ValueError, match=r"transports|pigeon"):
            async with node.client(options={"transports": transports}):
                pytest.fail("not connected")
