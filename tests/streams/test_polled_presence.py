"""Who polls is present in their rooms, between two polls as well."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import MockClock

from gateway.broker.base import room_channel
from gateway.hub.lingering import Lingering
from gateway.hub.presence import Presence
from gateway.wire.flusher import Flusher
from protocol.envelope import Envelope
from tests.cluster.together import client, rest, together
from tests.redis_server import RedisServer
from tests.streams.support import Caller
from tests.support import Raw, connected, running_gateway, until


async def told(watcher: Raw) -> tuple[str | None, str]:
    message: Envelope = await watcher.receive()
    assert message.t == "presence", message
    return message.event, message.data["user"]


async def test_a_user_stays_between_polls_and_leaves_once() -> None:
    async with (
        running_gateway(connection={"poll_grace": 0.3}) as gateway,
        connected(gateway, user="bob") as bob,
    ):
        assert (await bob.ask("join", room="r", data={"presence": True})).data["users"] == ["bob"]
        alice = Caller(gateway)
        _, cursor = await alice.poll(join="r", timeout=0)
        assert await told(bob) == ("join", "alice")
        assert not [each for each in gateway.hub.connections.values() if each.user == "alice"]
        for _ in range(3):
            await gateway.publish("acme", "r", "e")
            assert (await bob.event()).event == "e"
            messages, cursor = await alice.poll(join="r", cursor=cursor)
            assert [each["event"] for each in messages] == ["e"]
        # A poll that could have waited for long has told nobody that its user would go: it lingers as long.
        assert len(gateway.hub.lingering) == 1
        members = (await bob.ask("presence", room="r")).data
        assert members == {
            "members": [{"user": "alice", "connections": 1}, {"user": "bob", "connections": 1}],
            "connections": 2,
        }
        gateway.hub.lingering.back("acme", "alice", ["r"])
        gateway.hub.flusher.flush()
        assert await told(bob) == ("leave", "alice")
        await alice.poll(join="r", timeout=0)
        assert await told(bob) == ("join", "alice")
        assert await told(bob) == ("leave", "alice"), "when the grace is over"
        metrics = (await alice.get("/../../metrics")).text
        assert 'trireme_transport_connections{transport="websocket"} 1.0' in metrics
        assert 'trireme_transport_connections_total{transport="poll"} 5.0' in metrics


async def test_whoever_was_sent_away_does_not_stay() -> None:
    async with running_gateway() as gateway:
        alice = Caller(gateway)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(alice.poll, join="r"))
            await until(lambda: any(each.memberships for each in gateway.hub.connections.values()))
            shown = (await alice.get("/connections")).json()["connections"]
            assert [each["transport"] for each in shown] == ["poll"]
            gateway.hub.disconnect("acme", shown[0]["connection"])
        assert len(gateway.hub.lingering) == 0


async def test_it_is_seen_on_other_nodes(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", connection={"poll_grace": 0.3}) as (n1, n2):
        async with client(n2, "bob") as bob:
            await bob.ask("join", room="r", data={"presence": True})
            await Caller(n1).poll(join="r", timeout=0)
            assert await bob.told() == ("r", "join", "alice")
            await until(lambda: not n1.hub.connections)
            assert await bob.told() == ("r", "leave", "alice")
            present = (await rest(n1, "/rooms/r/presence"))["members"]
            assert [each["user"] for each in present] == ["bob"]


async def test_it_is_bounded_and_one_timer_ends_all(clock: MockClock) -> None:
    presence, flusher = Presence(), Flusher()
    lingering = Lingering(presence, flusher, most=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lingering.run)
        lingering.stay("small", "u", ["r"], 5.0)
        for number in range(30):
            lingering.stay("large", f"u{number}", ["r"], 60.0)
        assert len(lingering) == 10
        assert await presence.members("small", "r") == {"u": 1}, "who has most gives way"
        assert sorted(await presence.members("large", "r")) == [f"u{number}" for number in range(21, 30)]
        for _ in range(100):
            lingering.stay("large", "u29", ["r"], 20.0)
        assert len(lingering._due) <= 40
        await trio.sleep(6)
        assert await presence.members("small", "r") == {}
        lingering.stay("small", "u", ["r"], 1.0)
        await trio.sleep(2)
        assert len(lingering) == 9
        await trio.sleep(60)
        assert len(lingering) == 0 and not presence._lingering
        assert room_channel("large", "r") not in presence.channels
        nursery.cancel_scope.cancel()
