"""What was sent to the organisation and the user while there was no connection comes by itself."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.client import Backoff, Client, Event, Lost
from gateway.testing.node import Node, run_node

OPTIONS = {"reconnect": Backoff(base=0.01)}


async def tell(node: Node, number: int) -> None:
    await node.publish(None, "news", number)
    await node.gateway.hub.send_to_user("acme", "alice", "mine", number)


async def take(client: Client, count: int) -> list[Event]:
    found: list[Event] = []
    with trio.fail_after(60):
        while len(found) < count:
            found.append(await anext(client))
    return found


def shown(events: list[Event], to: str | None) -> list[object]:
    return [event.data for event in events if event.to == to]


@pytest.mark.parametrize("joined", [False, True])
async def test_it_comes_once_and_in_order(joined: bool) -> None:
    async with run_node() as node, node.client(options=OPTIONS) as client:
        if joined:  # then a resume token brings it
            await client.join("r")
        await tell(node, 0)
        await take(client, 2)
        for number in range(1, 6, 2):
            node.down = True
            node.cut("alice")
            await trio.testing.wait_all_tasks_blocked()
            await tell(node, number)
            await tell(node, number + 1)
            node.down = False
            events = await take(client, 4)
            for to in (None, "user"):
                assert shown(events, to) == [number, number + 1]
        await tell(node, 7)
        assert [event.data for event in await take(client, 2)] == [7, 7]


async def test_after_the_token_is_forgotten() -> None:
    async with run_node() as node, node.client(options=OPTIONS) as client:
        await client.join("r")
        await tell(node, 0)
        await take(client, 2)
        node.down = True
        node.cut("alice")
        await trio.testing.wait_all_tasks_blocked()
        node.broker._notes.clear()
        await tell(node, 1)
        node.down = False
        assert [event.data for event in await take(client, 2)] == [1, 1]


async def test_what_is_not_kept_is_told() -> None:
    async with run_node(history={"user": {"messages": 1}}) as node:
        async with node.client(options=OPTIONS) as client:
            await tell(node, 0)
            await take(client, 2)
            node.down = True
            node.cut("alice")
            await trio.testing.wait_all_tasks_blocked()
            for number in (1, 2, 3):
                await tell(node, number)
            node.down = False
            events = await take(client, 5)
            (lost,) = [event for event in events if isinstance(event, Lost)]
            assert (lost.to, lost.from_seq, lost.to_seq, lost.reason) == ("user", 2, 3, "history")
            assert [event.data for event in events if event.to == "user" and event is not lost] == [3]


async def test_an_order_that_began_anew_is_told() -> None:
    async with run_node() as node, node.client(options=OPTIONS) as client:
        await tell(node, 0)
        await take(client, 2)
        node.down = True
        node.cut("alice")
        await trio.testing.wait_all_tasks_blocked()
        node.broker.forget()
        await tell(node, 1)
        node.down = False
        events = await take(client, 4)
        losses = [(event.to, event.reason) for event in events if isinstance(event, Lost)]
        assert sorted(losses, key=str) == [("user", "epoch"), (None, "epoch")]
        for to in (None, "user"):
            assert shown([event for event in events if not isinstance(event, Lost)], to) == [1]
