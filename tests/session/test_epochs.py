"""Positions and their epochs: one of an order that has ended never counts in the next."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from gateway.broker.base import room_channel
from gateway.testing.node import Node, run_node
from tests.support import Raw

ROOM = room_channel("acme", "r")


async def begin_anew(node: Node, events: int) -> str:
    """The broker loses its data, and so many events come after that; returns the new epoch."""
    node.broker.forget()
    epoch = (await node.gateway.hub.history("acme", "r", limit=1)).epoch
    node.broker.sink.reset(ROOM, epoch, 0)
    for number in range(events):
        await node.gateway.hub.publish("acme", "r", "e", number)
    return epoch


async def resumed(node: Node, token: str) -> list[int | None]:
    """The numbers that a client gets who shows ``token``."""
    async with node.raw() as back:
        await back.ask("join", data={"resume": token})
        return [each.seq for each in await back.settled() if each.t == "event"]


async def in_the_room(node: Node, alice: Raw, events: int) -> str:
    for number in range(events):
        await node.gateway.hub.publish("acme", "r", "e", number)
    return (await alice.ask("join", room="r")).epoch or ""


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_resuming_goes_by_the_epoch(acknowledged: bool, clock: MockClock) -> None:
    async with run_node() as node:
        async with node.raw() as alice:
            old = await in_the_room(node, alice, 5)
            token = alice.greeting.data["resume"]
            if acknowledged:
                assert (await alice.ask("ack", room="r", seq=5)).epoch == old
            new = await begin_anew(node, 3)
            await alice.settled()
            if acknowledged:
                noted = await alice.ask("ack", room="r", seq=1)
                assert (noted.epoch, noted.seq) == (new, 1), "5 was of another order"
        assert await resumed(node, token) == ([2, 3] if acknowledged else [1, 2, 3])


async def test_an_acknowledgement_may_name_its_epoch(clock: MockClock) -> None:
    """It was on its way when the order ended: it does not count as one of the new order."""
    async with run_node() as node:
        async with node.raw() as alice:
            old = await in_the_room(node, alice, 5)
            token = alice.greeting.data["resume"]
            await begin_anew(node, 7)
            await alice.settled()
            noted = await alice.ask("ack", room="r", epoch=old, seq=5)
            assert (noted.epoch, noted.seq) == (old, 5)
        assert await resumed(node, token) == [1, 2, 3, 4, 5, 6, 7]
