"""What members are told when their broker lost events, or its data."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from gateway.broker.base import Event, organisation_channel, room_channel
from gateway.testing.node import Node, run_node
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.support import Raw

ROOM = room_channel("acme", "r")


def bring(node: Node, *seqs: int, epoch: str, channel: str = ROOM) -> None:
    """Deliver events as a broker on the network does."""
    for seq in seqs:
        room = "r" if channel == ROOM else None
        event = Event(
            channel=channel, event="e", mid=f"{epoch}{seq}", ts=0, room=room, data="x" * 1000, size=1000
        )
        event.seq, event.epoch = seq, epoch
        node.broker.sink.deliver(event)
    node.broker.sink.settled()


def told(messages: list[Envelope]) -> list[object]:
    return [message.seq if message.t == "event" else message.data for message in messages]


async def lag(node: Node, client: Raw, epoch: str) -> int:
    """Let the client read nothing until it lags; returns the last number."""
    client.link.down.stall()
    (membership,) = node.gateway.hub.channels[ROOM].members()
    seq = 0
    while membership.lag is None:
        seq += 1
        bring(node, seq, epoch=epoch)
        await trio.testing.wait_all_tasks_blocked()
    bring(node, seq + 1, seq + 2, epoch=epoch)
    return seq + 2


async def read_until(client: Raw, epoch: str, seq: int) -> list[Envelope]:
    """Let the client read again, up to this event; nothing may follow."""
    client.link.down.resume()
    messages = [await client.receive()]
    while (messages[-1].epoch, messages[-1].seq) != (epoch, seq):
        messages.append(await client.receive())
    assert await client.settled() == []
    return messages


async def test_events_that_will_not_come_are_announced(codec: Codec) -> None:
    async with run_node() as node, node.raw(codec=codec) as alice:
        epoch = (await alice.ask("join", room="r")).epoch or ""
        bring(node, 1, 2, epoch=epoch)
        node.broker.sink.lost(ROOM, 3, 5)
        bring(node, 6, epoch=epoch)
        node.broker.sink.lost(ROOM, 5, 6)
        node.broker.sink.lost(room_channel("acme", "nobody"), 1, 2)
        messages = await alice.settled()
        assert told(messages) == [1, 2, {"from": 3, "to": 5, "reason": "broker"}, 6]
        assert (messages[2].room, messages[2].epoch) == ("r", epoch)


async def test_another_epoch_is_announced(codec: Codec) -> None:
    async with run_node() as node, node.raw(codec=codec) as alice:
        epoch = (await alice.ask("join", room="r")).epoch or ""
        bring(node, 1, 2, 3, epoch=epoch)
        node.broker.sink.reset(ROOM, "new", 2)
        bring(node, 3, 4, epoch="new")
        messages = await alice.settled()
        following = {"epoch": "new", "seq": 2}
        assert told(messages) == [1, 2, 3, {"from": 4, "reason": "epoch", "next": following}, 3, 4]
        assert [message.epoch for message in messages] == [epoch] * 4 + ["new"] * 2


async def test_the_order_of_the_organisation_may_be_lost_as_well() -> None:
    channel = organisation_channel("acme")
    async with run_node() as node, node.raw() as alice:
        bring(node, 7, epoch="old", channel=channel)
        node.broker.sink.lost(channel, 8, 9)
        node.broker.sink.reset(channel, "new", 0)
        bring(node, 1, epoch="new", channel=channel)
        messages = await alice.settled()
        assert told(messages) == [
            7,
            {"from": 8, "to": 9, "reason": "broker"},
            {"from": 10, "reason": "epoch", "next": {"epoch": "new", "seq": 0}},
            1,
        ]
        assert {message.room for message in messages} == {None}


@pytest.mark.parametrize("policy", ["drop_oldest", "replay", "conflate"])
async def test_one_who_lags_is_told_where_it_stands(policy: str, clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        epoch = (await alice.ask("join", room="r", data={"overflow": policy})).epoch or ""
        await lag(node, alice, epoch)
        node.broker.forget()
        new = (await node.gateway.hub.history("acme", "r", limit=1)).epoch
        node.broker.sink.reset(ROOM, new, 0)
        assert not alice_backlog(node)
        await node.gateway.hub.publish("acme", "r", "e", size=1)
        messages = await read_until(alice, new, 1)
        had = [message.seq for message in messages if message.epoch == epoch and message.t == "event"]
        assert had == list(range(1, len(had) + 1))
        following = {"epoch": new, "seq": 0}
        assert told(messages) == [*had, {"from": len(had) + 1, "reason": "epoch", "next": following}, 1]


async def test_one_who_lags_is_told_what_did_not_come(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        epoch = (await alice.ask("join", room="r", data={"overflow": "drop_oldest"})).epoch or ""
        last = await lag(node, alice, epoch)
        node.broker.sink.lost(ROOM, last + 1, last + 5)
        bring(node, last + 6, epoch=epoch)
        messages = await read_until(alice, epoch, last + 6)
        assert told(messages)[-3:] == [last, {"from": last + 1, "to": last + 5, "reason": "slow"}, last + 6]
        assert [message.seq for message in messages if message.seq][:last] == list(range(1, last + 1))


def alice_backlog(node: Node) -> int:
    (connection,) = node.gateway.hub.connections.values()
    return connection.backlog.messages
