"""The client with the gateway itself, over real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.client import (
    Backoff,
    Client,
    CommandError,
    ConnectionClosed,
    ConnectionRefused,
    Lost,
    Member,
    PresenceChange,
    connect,
)
from gateway.client.transport import Address
from gateway.client.trio_socket import tcp_dial
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import AlertTriggered
from tests.client.scripted import take
from tests.support import DEADLINE, start_gateway, until, url

QUICK = Backoff(base=0.01, maximum=0.2, tries=100)


def client_of(gateway: Gateway, user: str = "alice", **options: Any) -> AbstractAsyncContextManager[Client]:
    roles = options.pop("roles", ())
    token = gateway.auth.issue(org="acme", user=user, roles=roles).token
    return connect(url(gateway), **{"token": token, "reconnect": QUICK, **options})


@pytest.fixture(autouse=True)
async def deadline(nursery: trio.Nursery) -> None:
    """A test that still waits after this long has failed."""
    nursery.cancel_scope.deadline = trio.current_time() + 3 * DEADLINE


class Cable:
    """A way to the gateway that can be cut, at once or after the next bytes have gone out."""

    def __init__(self) -> None:
        self._dial = tcp_dial()
        self._stream: trio.abc.Stream | None = None
        self._end: _Cuttable | None = None
        self.cut_after_send = False

    async def dial(self, address: Address) -> trio.abc.Stream:
        self._stream = await self._dial(address)
        self._end = _Cuttable(self, self._stream)
        return self._end

    async def cut(self) -> None:
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)

    def lose(self) -> trio.abc.Stream:
        """End it for the client only; returns what the gateway still takes for an open connection."""
        assert self._end is not None and self._stream is not None
        self._end.lose()
        return self._stream


class _Cuttable(trio.abc.Stream):
    def __init__(self, cable: Cable, stream: trio.abc.Stream) -> None:
        self._cable = cable
        self._stream = stream
        self._reading = trio.CancelScope()
        self._lost = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost:
            raise trio.BrokenResourceError
        await self._stream.send_all(data)
        if self._cable.cut_after_send:
            self._cable.cut_after_send = False
            # Nothing that the gateway answers gets through any more.
            assert isinstance(self._stream, trio.SocketStream)
            await self._stream.send_eof()
            await trio.aclose_forcefully(self._stream)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with self._reading:
            chunk = await self._stream.receive_some(max_bytes)
            self._reading = trio.CancelScope()
            return chunk
        raise trio.BrokenResourceError

    def lose(self) -> None:
        self._lost = True
        self._reading.cancel()

    async def aclose(self) -> None:
        if not self._lost:
            await self._stream.aclose()


@pytest.mark.parametrize("speaks", ["cbor", "json"])
async def test_every_command(nursery: trio.Nursery, speaks: str) -> None:
    gateway = await start_gateway(nursery)
    async with (
        client_of(gateway, "alice", codec=speaks, roles=["service"]) as alice,
        client_of(gateway, "bob", codec="json") as bob,
    ):
        assert alice.connection.org == "acme"
        assert alice.connection.user == "alice"
        assert alice.connection.subprotocol == f"trireme.v1.{speaks}"
        joined = await alice.join("chat:42", events=["message:*"])
        assert joined.seq == 0
        await bob.join("chat:42")

        published = await bob.publish("chat:42", "message:new", {"text": "hi", "n": [1.5, None, "ü"]})
        assert (published.room, published.seq, published.epoch) == ("chat:42", 1, joined.epoch)
        (event,) = await take(alice, 1)
        assert (event.room, event.event, event.seq, event.sender) == ("chat:42", "message:new", 1, "bob")
        assert event.data == {"text": "hi", "n": [1.5, None, "ü"]}
        assert (event.mid, event.epoch) == (published.mid, published.epoch)
        assert event.ts is not None
        assert (await take(bob, 1))[0].mid == published.mid, "the publisher is in the room too"

        await bob.publish("chat:42", "status")
        assert (await take(bob, 1))[0].event == "status"
        again = await bob.publish("chat:42", "message:new", mid=published.mid)
        assert (again.seq, again.mid) == (1, published.mid), "published once"
        page = await alice.history("chat:42", since=(joined.epoch, 0), limit=1)
        assert (page.seq, page.more, page.complete) == (2, True, True)
        assert page.events == (event,)
        assert [event.seq for event in (await alice.history("chat:42")).events] == [1, 2]

        presence = await alice.presence("chat:42")
        assert presence.connections == 2
        assert set(presence.members) == {
            Member(user="alice", connections=1),
            Member(user="bob", connections=1),
        }
        await alice.ack("chat:42", 2)
        info = await alice.info()
        assert info["connection"] == alice.connection.connection
        assert info["user_agent"].startswith("trireme-gateway/")
        assert (await alice.stats())["org"] == "acme"
        assert 0 <= await alice.ping() < DEADLINE

        await alice.typing("chat:42")
        await alice.typing("chat:42", start=False)
        assert [event.event for event in await take(bob, 2)] == ["typing:start", "typing:stop"]

        sent = await alice.send("direct", {"n": 1}, user="bob")
        assert sent.connections == 1
        (event,) = await take(bob, 1)
        assert (event.room, event.event, event.data, event.mid) == (None, "direct", {"n": 1}, sent.mid)
        await bob.send("direct", connection=alice.connection.connection)
        assert (await take(alice, 1))[0].event == "direct"

        assert (await bob.subscribe("alert_*", "last")).events == ("alert_*", "last")
        assert (await bob.unsubscribe("alert_x")).excepted == ("alert_x",)
        await bob.join("system")
        await alice.publish("system", "something")
        await alice.publish("system", "alert_x")
        await alice.emit(AlertTriggered(alert_id="a1", message="disk full", severity="warning"))
        assert (await take(bob, 1))[0].event == "alert_triggered"
        everyone = await alice.publish(None, "last")
        assert everyone.room is None
        assert [event.event for event in (await take(bob, 1))] == ["last"]

        await bob.leave("chat:42")
        assert bob.rooms == ("system",)
        assert (await alice.presence("chat:42")).connections == 1
        token = gateway.auth.issue(org="acme", user="alice", ttl=7000).token
        assert (await alice.refresh(token)).expires == alice.connection.expires


async def test_calls_reach_their_handler(gateway: Gateway) -> None:
    async def double(connection: object, data: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if not isinstance(data, int):
            raise ProtocolError(ErrorCode.CALL_REJECTED, "a number is needed")
        return data * 2

    gateway.handle_call("double", double)
    async with client_of(gateway) as client:
        assert await client.call("double", 21) == 42
        with pytest.raises(CommandError) as caught:
            await client.call("double", "x")
        assert (caught.value.code, caught.value.message) == (ErrorCode.CALL_REJECTED, "a number is needed")
        with pytest.raises(CommandError) as caught:
            await client.call("unknown")
        assert caught.value.code == ErrorCode.UNKNOWN_CALL


async def test_what_is_refused(gateway: Gateway) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        async with connect(url(gateway), token="forged"):
            pytest.fail("not connected")
    assert caught.value.status == 401
    with pytest.raises(ConnectionRefused, match="no token"):
        async with connect(url(gateway)):
            pytest.fail("not connected")
    limited = gateway.auth.issue(org="acme", user="eve", rooms={"open:*": ["join"]}).token
    async with connect(url(gateway), token=limited) as client:
        await client.join("open:1")
        with pytest.raises(CommandError) as refused:
            await client.publish("open:1", "x")
        assert refused.value.code == ErrorCode.FORBIDDEN
        with pytest.raises(CommandError) as refused:
            await client.join("closed:1")
        assert refused.value.code == ErrorCode.FORBIDDEN
        with pytest.raises(CommandError) as refused:
            await client.join("a" * 201)
        assert refused.value.code == ErrorCode.BAD_ROOM
        with pytest.raises(CommandError) as refused:
            await client.publish("open:1", "x", "a" * (1 << 20))
        assert refused.value.code == ErrorCode.TOO_LARGE
        assert client.state == "connected"


async def test_rooms_that_a_new_token_does_not_permit_are_left(gateway: Gateway) -> None:
    cable = Cable()
    async with client_of(gateway, dial=cable.dial) as client:
        await client.join("open")
        await client.join("closed")
        narrow = gateway.auth.issue(org="acme", user="alice", rooms={"open": ["join"]}, ttl=7000).token
        assert (await client.refresh(narrow)).left == ("closed",)
        assert client.rooms == ("open",)
        await cable.cut()
        assert [room["room"] for room in (await client.info())["rooms"]] == ["open"]


async def test_many_clients_see_every_number(gateway: Gateway) -> None:
    async def listen(user: str, speaks: str, ready: Callable[[], Awaitable[None]]) -> None:
        async with client_of(gateway, user, codec=speaks) as client:
            await client.join("room")
            await ready()
            assert [event.seq for event in await take(client, 100)] == list(range(1, 101))

    joined = 0
    everybody = trio.Event()

    async def ready() -> None:
        nonlocal joined
        joined += 1
        if joined == 20:
            everybody.set()
        await everybody.wait()

    async with client_of(gateway) as publisher, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(listen, f"user{number}", ("cbor", "json")[number % 2], ready)
        await everybody.wait()
        for number in range(100):
            await publisher.publish("room", "x", number)


async def test_a_cut_connection_misses_nothing(gateway: Gateway) -> None:
    cable = Cable()
    async with client_of(gateway, dial=cable.dial) as client, client_of(gateway, "bob") as publisher:
        await client.join("room", events=["x"])
        got: list[int] = []

        async def publish() -> None:
            for number in range(200):
                await publisher.publish("room", "x" if number % 4 else "y", number)
                if number % 50 == 25:
                    await cable.cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            while len(got) < 150:
                (event,) = await take(client, 1)
                assert not isinstance(event, Lost)
                got.append(event.data)
        assert got == [number for number in range(200) if number % 4]


async def test_a_connection_that_the_gateway_takes_for_open_is_taken_over(gateway: Gateway) -> None:
    """Nothing is missing and nothing comes twice, and one command brings 50 rooms back."""
    cable = Cable()
    async with client_of(gateway, dial=cable.dial) as client, client_of(gateway, "bob") as publisher:
        for number in range(50):
            await client.join(f"silent:{number}")
        await client.join("room")
        await client.unsubscribe("y")
        got: list[int] = []
        lost: list[trio.abc.Stream] = []

        async def publish() -> None:
            for number in range(200):
                await publisher.publish("room", "x" if number % 4 else "y", number)
                if number % 50 == 25:
                    lost.append(cable.lose())
                    await until(lambda: gateway.hub.counters.closes[CloseCode.TAKEN_OVER] == len(lost))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            while len(got) < 150:
                (event,) = await take(client, 1)
                assert not isinstance(event, Lost)
                got.append(event.data)
        assert got == [number for number in range(200) if number % 4]
        info = await client.info()
        assert (len(info["rooms"]), info["messages_in"]) == (51, 2), "the resumption, and this"
        assert len(gateway.hub.connections) == 2
        for stream in lost:
            await trio.aclose_forcefully(stream)


async def test_who_came_and_went_during_an_interruption_is_told(gateway: Gateway) -> None:
    cable = Cable()
    dialling = trio.Event()
    dialling.set()

    async def dial(address: Address) -> trio.abc.Stream:
        await dialling.wait()
        return await cable.dial(address)

    async with client_of(gateway, dial=dial) as client:
        async with client_of(gateway, "bob") as bob:
            await bob.join("room")
            joined = await client.join("room", presence=True)
            assert joined.users == ("alice", "bob")
            await bob.leave("room")
            await bob.join("room")
            left, joined_again = await take(client, 2)
            assert isinstance(left, PresenceChange)
            assert (left.event, left.room, left.user, joined_again.event) == ("leave", "room", "bob", "join")
            dialling = trio.Event()
            await cable.cut()
        async with client_of(gateway, "carol") as carol:
            await carol.join("room")
            dialling.set()
            changes = await take(client, 2)
            assert [(each.event, each.user) for each in changes if isinstance(each, PresenceChange)] == [
                ("leave", "bob"),
                ("join", "carol"),
            ]
        assert (await take(client, 1))[0].event == "leave"


async def test_a_publish_whose_reply_was_lost_counts_once(gateway: Gateway) -> None:
    cable = Cable()
    async with client_of(gateway, dial=cable.dial) as client, client_of(gateway, "bob") as listener:
        await listener.join("room")
        cable.cut_after_send = True
        published = await client.publish("room", "x", "once")
        await client.publish("room", "y")
        first, second = await take(listener, 2)
        assert (first.event, first.seq, first.mid) == ("x", published.seq, published.mid)
        assert (second.event, second.seq) == ("y", 2)


async def test_what_is_no_longer_kept_is_announced_once(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, history={"messages": 3})
    cable = Cable()
    dialling = trio.Event()

    async def dial(address: Address) -> trio.abc.Stream:
        await dialling.wait()
        return await cable.dial(address)

    dialling.set()
    async with client_of(gateway, dial=dial) as client, client_of(gateway, "bob") as publisher:
        joined = await client.join("room", events=["x"])
        await publisher.publish("room", "x", 1)
        await take(client, 1)
        dialling = trio.Event()
        await cable.cut()
        for number in range(2, 11):
            await publisher.publish("room", "x" if number % 2 else "y", number)
        dialling.set()
        items = await take(client, 2)
        assert items[0] == Lost(room="room", epoch=joined.epoch, from_seq=2, to_seq=7, reason="history")
        assert items[1].data == 9
        await publisher.publish("room", "x", 11)
        assert (await take(client, 1))[0].data == 11


async def test_the_filter_outlives_the_connection(gateway: Gateway) -> None:
    cable = Cable()
    async with client_of(gateway, dial=cable.dial) as client, client_of(gateway, "bob") as publisher:
        await client.subscribe("a:*")
        await client.unsubscribe("a:2")
        await client.join("room")
        await cable.cut()
        info = await client.info()
        assert (info["events"], info["except"]) == (["a:*"], ["a:2"])
        for name in ("b", "a:2", "a:1"):
            await publisher.publish("room", name)
        assert (await take(client, 1))[0].event == "a:1"
        # As before: a further subscription adds, it does not narrow.
        assert (await client.subscribe("b")).events == ("a:*", "b")


async def restarted(gateway: Gateway, nursery: trio.Nursery) -> Gateway:
    """Stop the gateway, and start another one on its port."""
    gateway.stop()
    with trio.fail_after(DEADLINE):
        await gateway.finished.wait()
    return await start_gateway(nursery, port=gateway.port)


@pytest.mark.parametrize("speaks", ["cbor", "json"])
async def test_a_restarted_gateway_finds_its_clients_again(nursery: trio.Nursery, speaks: str) -> None:
    gateway = await start_gateway(nursery, retry_after=0.05)
    async with client_of(gateway, codec=speaks) as client, client_of(gateway, "bob") as publisher:
        old = await client.join("room")
        await publisher.publish("room", "x", "before")
        assert (await take(client, 1))[0].data == "before"
        await restarted(gateway, nursery)
        # The memory of the first gateway is gone with it, so the order begins anew, and that is said.
        losses = await take(client, 3)
        assert [each.room for each in losses] == [None, None, "room"], (
            "of the organisation and the user as well"
        )
        assert losses[-1] == Lost(room="room", epoch=old.epoch, from_seq=2, to_seq=None, reason="epoch")
        assert (await publisher.publish("room", "x", "after")).seq == 1
        (event,) = await take(client, 1)
        assert (event.data, event.seq) == ("after", 1)
        assert event.epoch != old.epoch
        assert client.state == "connected"


async def test_publishing_through_a_restart(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, retry_after=0.05)
    async with client_of(gateway) as client:
        done = 0

        async def publish() -> None:
            nonlocal done
            for number in range(300):
                await client.publish("room", "x", number)
                done = number

        async with trio.open_nursery() as publishing:
            publishing.start_soon(publish)
            await until(lambda: done > 50)
            await restarted(gateway, nursery)
        assert done == 299


async def test_a_client_that_is_sent_away_does_not_come_back(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        gateway.hub.disconnect("acme", client.connection.connection, reason="enough")
        with pytest.raises(ConnectionClosed, match="enough") as caught:
            await anext(client)
        assert caught.value.code == CloseCode.DISCONNECTED
        with pytest.raises(ConnectionClosed):
            await client.info()
    assert not gateway.hub.connections


async def test_leaving_the_block_leaves_the_gateway(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        await client.join("room")
        assert len(gateway.hub.connections) == 1
    await until(lambda: not gateway.hub.connections)
    assert gateway.hub.statistics.of("acme")["connections"] == 0


async def test_a_cancelled_block_leaves_the_gateway_too(gateway: Gateway) -> None:
    with trio.CancelScope() as scope:
        async with client_of(gateway):
            assert len(gateway.hub.connections) == 1
            scope.cancel()
            await trio.sleep_forever()
    await until(lambda: not gateway.hub.connections)
