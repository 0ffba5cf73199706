"""Whatever a slow client does: every event of a room, of the organisation and of the user comes or is told to
be ``lost``, in order, within the bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio_websocket
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.config.settings import UserHistory
from gateway.hub.connection import Connection
from gateway.testing.node import Node, run_node
from protocol.envelope import Envelope
from tests.support import Raw, connected, running_gateway

MESSAGES, BYTES = 8, 65536
LIMITS = {"queue_messages": MESSAGES, "queue_bytes": BYTES}
FEW = hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
OWN = ("organisation", "user")
ORDERS = ["r", "s", "organisation", "user"]
CALM = 3.0
"""Virtual seconds after which nothing more comes."""


def on_virtual_time(test: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run an example on a clock of its own."""
    trio.run(test, *args, clock=MockClock(autojump_threshold=0))


# --- what is done to the client ---------------------------------------------------------------------------


@dataclass
class Publish:
    room: str
    size: int
    critical: bool


@dataclass
class Read:
    """So many messages are taken by the client."""

    count: int


@st.composite
def bursts(draw: st.DrawFn) -> list[Publish | Read]:
    """Many events of two orders at once, now and then a critical one, and then some are read."""
    size = draw(st.sampled_from([0, 500, 4000, 40_000]))
    main, other, *_ = draw(st.permutations(ORDERS))
    count = draw(st.integers(1, 40))
    critical = draw(st.sets(st.integers(0, count), max_size=3))
    elsewhere = draw(st.sets(st.integers(0, count), max_size=3))
    todo: list[Publish | Read] = []
    for number in range(count):
        order = other if number in elsewhere else main
        todo.append(Publish(order, size, number in critical and order != "user"))
    return [*todo, Read(draw(st.integers(0, 15)))]


steps = st.lists(bursts(), min_size=2, max_size=6).map(
    lambda parts: [step for part in parts for step in part]
)
policies = st.sampled_from(["drop_oldest", "conflate", "replay"])


def order_of(message: Envelope) -> str:
    return message.room or message.to or "organisation"


async def publish(gateway: Gateway, order: str, data: Any, *, critical: bool = False) -> None:
    if order == "user":
        await gateway.hub.send_to_user("acme", "alice", "e", data)
    else:
        room = None if order == "organisation" else order
        await gateway.hub.publish("acme", room, "e", data, critical=critical)


class Reader:
    """What a client has been told of each order."""

    def __init__(self, client: Raw, *rooms: str) -> None:
        self.client = client
        self.after = dict.fromkeys(rooms, 0)
        """Room → up to where every event came or is known to be lost."""
        self.critical: dict[str, list[int]] = {room: [] for room in rooms}
        self.came: dict[str, list[int]] = {room: [] for room in rooms}
        self.lost: dict[str, list[tuple[int, int]]] = {room: [] for room in rooms}

    def take(self, message: Envelope) -> None:
        """Account for one message; fails where something is missing, twice or out of order."""
        room = order_of(message)
        after = self.after[room]
        if message.t == "lost":
            first, last = message.data["from"], message.data["to"]
            assert after < first <= last, (message, after)
            self.skip(room, first - 1)
            self.after[room] = last
            self.lost[room].append((first, last))
        else:
            assert message.t == "event" and message.seq is not None, message
            if message.critical:
                assert message.seq not in self.critical[room]
                assert message.seq > max(self.critical[room], default=0), "in order within their class"
                self.critical[room].append(message.seq)
            else:
                self.skip(room, message.seq - 1)
                assert self.after[room] < message.seq, (message.seq, after)
                self.after[room] = message.seq
                self.came[room].append(message.seq)

    def skip(self, room: str, last: int) -> None:
        """Nothing is said of the events up to ``last``: they must be critical ones that came earlier."""
        for seq in range(self.after[room] + 1, last + 1):
            assert seq in self.critical[room], f"{room}: nothing was said of {seq}"
        self.after[room] = max(self.after[room], last)

    async def read(self, count: int) -> None:
        for _ in range(count):
            with trio.move_on_after(CALM) as waiting:
                self.take(await self.client.receive())
            if waiting.cancelled_caught:
                return

    async def read_all(self) -> None:
        await self.read(10_000)


def kept_within_bounds(connection: Connection) -> None:
    backlog = connection.backlog
    assert backlog.messages <= MESSAGES
    assert backlog.bytes <= BYTES or backlog.messages == 1
    kept = [event for place in connection.places if place.lag for event in place.lag._kept.values()]
    assert (backlog.messages, backlog.bytes) == (len(kept), sum(event.size for event in kept))
    outbox = connection.outbox
    assert outbox.waiting <= MESSAGES + 256, "what is critical has a reserve of 256"
    assert outbox.size <= BYTES + 256 * 1024


async def run(node: Node, client: Raw, reader: Reader, todo: list[Publish | Read]) -> None:
    (connection,) = node.gateway.hub.connections.values()
    number = 0
    for step in todo:
        if isinstance(step, Publish):
            number += 1
            data = {"key": number % 3, "pad": "x" * step.size}
            await publish(node.gateway, step.room, data, critical=step.critical)
            if number % 4 == 0:
                await trio.testing.wait_all_tasks_blocked()
        else:
            client.link.down.resume()
            await reader.read(step.count)
            client.link.down.stall()
        kept_within_bounds(connection)
    client.link.down.resume()
    await reader.read_all()
    assert not any(place.lag for place in connection.places)
    assert connection.backlog.messages == connection.backlog.bytes == 0


@given(todo=steps, first=policies, second=policies, kept=st.sampled_from([3, 40, 1000]))
@FEW
def test_every_event_is_delivered_or_lost(
    todo: list[Publish | Read], first: str, second: str, kept: int
) -> None:
    async def example() -> None:
        settings = {
            "limits": LIMITS,
            "connection": {"heartbeat": 1e6},
            "history": {"messages": kept, "bytes": 2**24, "user": UserHistory(messages=kept, bytes=2**24)},
        }
        async with run_node(**settings) as node, node.raw() as client:
            client.link.down.capacity = 4096
            await client.ask("join", room="r", data={"overflow": first})
            await client.ask("join", room="s", data={"overflow": second})
            own = {"organisation": {"overflow": first}, "user": {"overflow": second}}
            await client.ask("join", data=own)
            client.link.down.stall()
            reader = Reader(client, *ORDERS)
            await run(node, client, reader, todo)
            for room, policy in zip(ORDERS, (first, second, first, second), strict=True):
                published = [step for step in todo if isinstance(step, Publish) and step.room == room]
                ordinary = [n for n, step in enumerate(published, 1) if not step.critical]
                critical = [n for n, step in enumerate(published, 1) if step.critical]
                reader.skip(room, len(published))
                assert reader.critical[room] == critical, "no critical event is lost"
                assert set(reader.came[room]) <= set(ordinary)
                assert all(a in ordinary and b in ordinary for a, b in reader.lost[room])
                if ordinary and policy != "replay":
                    assert reader.after[room] == len(published)
                if policy == "replay" and kept >= len(todo):
                    assert reader.came[room] == ordinary and not reader.lost[room]

    on_virtual_time(example)


@given(todo=steps)
@FEW
def test_whoever_is_disconnected_comes_back_and_misses_nothing(todo: list[Publish | Read]) -> None:
    async def example() -> None:
        settings = {
            "limits": LIMITS,
            "connection": {"heartbeat": 1e6},
            "history": {"messages": 1000, "bytes": 2**24, "user": UserHistory(messages=1000, bytes=2**24)},
        }
        async with run_node(**settings) as node:
            reader: Reader | None = None
            left = list(todo)
            place: dict[str, Any] = {}
            for _ in range(100):
                async with node.raw() as client:
                    client.link.down.capacity = 4096
                    if reader is None:
                        reader = Reader(client, *ORDERS)
                        place = client.greeting.data["positions"]
                    for room in ("r", "s"):
                        since = {"since": place[room] | {"seq": reader.after[room]}} if room in place else {}
                        reply = await client.ask("join", room=room, data=since)
                        place[room] = {"epoch": reply.epoch}
                    own = {of: {"since": place[of] | {"seq": reader.after[of]}} for of in OWN}
                    await client.ask("join", data=own)
                    reader.client = client
                    for message in client.events:
                        reader.take(message)
                    client.link.down.stall()
                    try:
                        while left:
                            step = left.pop(0)
                            if isinstance(step, Publish):
                                await publish(node.gateway, step.room, {"pad": "x" * step.size})
                                await trio.testing.wait_all_tasks_blocked()
                            else:
                                client.link.down.resume()
                                await reader.read(step.count)
                                client.link.down.stall()
                        client.link.down.resume()
                        await reader.read_all()
                        break
                    except trio_websocket.ConnectionClosed as closed:
                        assert closed.reason is None or closed.reason.code in {1006, 4001}
            assert reader is not None
            for order in ORDERS:
                published = sum(isinstance(step, Publish) and step.room == order for step in todo)
                assert reader.came[order] == list(range(1, published + 1)), order

    on_virtual_time(example)


# --- repair ---------------------------------------------------------------------------------------------


async def slow_for_a_while(gateway: Gateway, client: Raw, policy: str) -> tuple[Reader, tuple[int, int], str]:
    """Over a real socket, read nothing for 500 large events, then all; returns the loss and the epoch."""
    epoch = (await client.ask("join", room="r", data={"overflow": policy})).epoch or ""
    for number in range(1, 501):
        await gateway.hub.publish("acme", "r", "e", {"key": number % 3, "pad": "x" * 16_000})
    reader = Reader(client, "r")
    while reader.after["r"] < 500:
        reader.take(await client.receive())
    assert reader.lost["r"]
    return reader, (reader.lost["r"][0][0], reader.lost["r"][-1][1]), epoch


@pytest.mark.parametrize("policy", ["drop_oldest", "conflate"])
async def test_what_was_lost_is_repaired_by_pages_of_history(policy: str) -> None:
    settings = {"limits": {"queue_messages": 20}, "history": {"messages": 1000, "bytes": 2**24, "page": 50}}
    async with running_gateway(**settings) as gateway, connected(gateway) as client:
        reader, (first, last), epoch = await slow_for_a_while(gateway, client, policy)
        repaired: list[int] = []
        position = first - 1
        while position < last:
            page = await client.ask("history", room="r", data={"since": {"epoch": epoch, "seq": position}})
            assert page.data["complete"] is True and len(page.data["events"]) <= 50
            repaired += [event["seq"] for event in page.data["events"]]
            position = repaired[-1]
        assert set(reader.came["r"]) | set(repaired) == set(range(1, 501))


async def test_what_was_lost_is_repaired_by_joining_again() -> None:
    settings = {"limits": {"queue_messages": 20}, "history": {"messages": 400, "bytes": 2**24}}
    async with running_gateway(**settings) as gateway, connected(gateway) as client:
        _, (first, _), epoch = await slow_for_a_while(gateway, client, "drop_oldest")
        kept = (await gateway.hub.history("acme", "r", limit=1000)).events[0].seq or 0
        since = max(first, kept) - 1
        answer = await client.ask("join", room="r", data={"since": {"epoch": epoch, "seq": since}})
        assert answer.data["recovered"] is True
        again = Reader(client, "r")
        again.after["r"] = since
        while again.after["r"] < (answer.seq or 0):
            again.take(await client.receive())
        assert again.came["r"] == list(range(since + 1, 501)) and not again.lost["r"]
        # One event more than is kept: that one is told to be lost, and the rest comes.
        answer = await client.ask("join", room="r", data={"since": {"epoch": epoch, "seq": kept - 2}})
        assert answer.data["recovered"] is False
        rest = Reader(client, "r")
        rest.after["r"] = kept - 2
        while rest.after["r"] < (answer.seq or 0):
            rest.take(await client.receive())
        assert rest.lost["r"] == [(kept - 1, kept - 1)]
