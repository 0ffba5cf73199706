"""Joining at a position: what is replayed, and that nothing falls between the replayed and the live."""

from __future__ import annotations

from typing import Any

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.support import Raw, connected, running_gateway


async def publish(gateway: Gateway, count: int, room: str = "r") -> str:
    """Publish so many events; returns the epoch."""
    for _ in range(count):
        position = await gateway.hub.publish("acme", room, "e", size=10)
    return position.epoch


async def join(client: Raw, epoch: str, seq: int, **data: Any) -> tuple[Envelope, list[Envelope]]:
    """Join with ``since``; returns the reply and what followed it."""
    reply = await client.ask("join", room="r", data={"since": {"epoch": epoch, "seq": seq}, **data})
    assert not client.events, "nothing comes before the reply"
    return reply, await client.settled()


async def test_what_was_missed_is_replayed(gateway: Gateway, codec: Codec) -> None:
    epoch = await publish(gateway, 10)
    async with connected(gateway, codec=codec) as alice:
        for seq in (0, 7, 9, 10):
            reply, events = await join(alice, epoch, seq)
            assert (reply.epoch, reply.seq) == (epoch, 10)
            assert reply.data == {"recovered": True, "replayed": 10 - seq}
            assert [event.seq for event in events] == list(range(seq + 1, 11))
            assert {event.epoch for event in events} <= {epoch}
        await publish(gateway, 2)
        assert [event.seq for event in await alice.settled()] == [11, 12], "live, once"


async def test_a_gap_that_history_no_longer_fills_is_announced(codec: Codec) -> None:
    async with running_gateway(history={"messages": 3}) as gateway, connected(gateway, codec=codec) as alice:
        epoch = await publish(gateway, 10)
        reply, (lost, *events) = await join(alice, epoch, 4)
        assert reply.data == {"recovered": False, "replayed": 3}
        assert (lost.t, lost.room, lost.epoch) == ("lost", "r", epoch)
        assert lost.data == {"from": 5, "to": 7, "reason": "history"}
        assert [event.seq for event in events] == [8, 9, 10]
        reply, events = await join(alice, epoch, 7)
        assert (reply.data["recovered"], [event.seq for event in events]) == (True, [8, 9, 10])


async def test_another_epoch_is_not_recovered(gateway: Gateway, codec: Codec) -> None:
    epoch = await publish(gateway, 4)
    async with connected(gateway, codec=codec) as alice:
        reply, events = await join(alice, "another", 2)
        assert (reply.epoch, reply.data) == (epoch, {"recovered": False, "replayed": 4})
        assert [(event.t, event.seq) for event in events] == [("event", seq) for seq in (1, 2, 3, 4)]


async def test_a_position_ahead_of_the_room_is_not_recovered(gateway: Gateway, codec: Codec) -> None:
    epoch = await publish(gateway, 4)
    async with connected(gateway, codec=codec) as alice:
        for seq in (5, 2**63 - 1):
            reply, events = await join(alice, epoch, seq)
            assert (reply.seq, reply.data) == (4, {"recovered": False, "replayed": 4})
            assert [(event.t, event.seq) for event in events] == [("event", seq) for seq in (1, 2, 3, 4)]


async def test_without_since_nothing_is_replayed(gateway: Gateway) -> None:
    await publish(gateway, 4)
    async with connected(gateway) as alice:
        reply = await alice.ask("join", room="r")
        assert (reply.seq, reply.data) == (4, None)
        assert await alice.settled() == []


async def test_the_order_outlives_the_members(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        before = await alice.ask("join", room="r")
        await publish(gateway, 2)
        await alice.settled()
        await alice.ask("leave", room="r")
        await publish(gateway, 3)
        reply, events = await join(alice, before.epoch or "", 2)
        assert (reply.epoch, reply.seq) == (before.epoch, 5)
        assert [event.seq for event in events] == [3, 4, 5]


async def test_a_join_that_replays_more_than_the_queue_holds(codec: Codec) -> None:
    settings: dict[str, Any] = {"limits": {"queue_messages": 20}, "history": {"messages": 500}}
    async with running_gateway(**settings) as gateway, connected(gateway, codec=codec) as alice:
        epoch = await publish(gateway, 400)
        await alice.ask("join", room="r", data={"since": {"epoch": epoch, "seq": 0}})
        assert [(await alice.event()).seq for _ in range(400)] == list(range(1, 401))
        assert await alice.settled() == []
