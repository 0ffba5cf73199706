"""Brokers for tests: each with a notebook of what it delivered and said."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

from gateway.broker.base import Broker, Channel, Event, HistoryPage, Position, Sink, room_channel
from gateway.broker.memory import MemoryBroker
from gateway.broker.redis.broker import RedisBroker
from gateway.config.settings import HistorySettings, RedisSettings
from protocol.errors import ProtocolError
from tests.support import DEADLINE, until

_prefixes = itertools.count(1)

ROOM = room_channel("acme", "c")


class Node:
    """One node's broker, and all that it told its hub."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.delivered: list[Event] = []
        self.lost: list[tuple[str, int, int]] = []
        self.resets: list[tuple[str, str, int]] = []
        self.settled = 0
        broker.attach(
            Sink(
                self.delivered.append,
                lambda channel, first, last: self.lost.append((channel, first, last)),
                lambda channel, epoch, seq: self.resets.append((channel, epoch, seq)),
                self._settle,
            )
        )

    def _settle(self) -> None:
        self.settled += 1

    def submit(
        self, channel: Channel = ROOM, *, mid: str | None = None, **fields: Any
    ) -> list[Position | ProtocolError]:
        """Publish one event; the list gets its place, or the error, when there is one."""
        outcome: list[Position | ProtocolError] = []
        fields = {"event": "e", "ts": int(time.time() * 1000)} | fields
        self.broker.submit(
            Event(channel=channel, mid=mid or f"{next(_mids)}.{id(self)}", **fields), outcome.append
        )
        return outcome

    async def publish(self, channel: Channel = ROOM, **fields: Any) -> Position:
        """Publish one event, which must succeed."""
        return (await self.publish_many([(channel, fields)]))[0]

    async def publish_many(self, events: list[tuple[Channel, dict[str, Any]]]) -> list[Position]:
        """Publish all without waiting in between; every one must succeed."""
        outcomes = [self.submit(channel, **fields) for channel, fields in events]
        await until(lambda: all(outcomes), "an answer to every publish")
        places = []
        for outcome in outcomes:
            (place,) = outcome
            assert isinstance(place, Position), place
            places.append(place)
        return places

    async def refused(self, **fields: Any) -> ProtocolError:
        """Publish one event, which must be refused."""
        outcome = self.submit(**fields)
        await until(lambda: outcome, "an answer to the publish")
        (error,) = outcome
        assert isinstance(error, ProtocolError), error
        return error

    def got(self, channel: Channel = ROOM) -> list[int | None]:
        """The numbers of the channel's delivered events."""
        return [event.seq for event in self.delivered if event.channel == channel]

    async def ready(self) -> None:
        """Wait until events can be published."""
        await until(lambda: self.broker.ready() is None, "the broker's readiness")

    async def kept(self, channel: Channel = ROOM) -> list[int | None]:
        """The numbers of the kept events."""
        return numbers(await self.broker.history(channel, since=None, limit=10_000))


_mids = itertools.count(1)


def numbers(page: HistoryPage) -> list[int | None]:
    """The numbers of a page's events."""
    return [event.seq for event in page.events]


def redis_of(node: Node) -> RedisBroker:
    """The node's broker, which must be that of Redis."""
    assert isinstance(node.broker, RedisBroker)
    return node.broker


def measure(node: Node, name: str) -> float:
    """The value of one of the broker's metrics."""
    return redis_of(node).measures()[name][1]


def fresh_prefix() -> str:
    """A prefix that no other test uses."""
    return f"test{next(_prefixes)}"


def make(address: str, *, prefix: str = "", history: dict[str, Any] | None = None, **redis: Any) -> Node:
    """A node with the broker at ``address``; nobody runs it yet."""
    kept = msgspec.structs.replace(HistorySettings(), **(history or {}))
    if address == "memory":
        return Node(MemoryBroker(kept))
    changed = msgspec.structs.replace(RedisSettings(), prefix=prefix or fresh_prefix(), **redis)
    return Node(RedisBroker(address, changed, kept))


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Have the nodes run, and ready, for the length of the block."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.broker.run)
        for node in nodes:
            await node.ready()
        yield
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def cluster_of(number: int, address: str, **settings: Any) -> AsyncIterator[list[Node]]:
    """Several nodes that share one log."""
    nodes = [make(address, **({"prefix": fresh_prefix()} | settings)) for _ in range(number)]
    if number > 1:
        prefix = settings.get("prefix") or fresh_prefix()
        nodes = [make(address, **(settings | {"prefix": prefix})) for _ in range(number)]
    async with running(*nodes):
        yield nodes


async def settle(node: Node, channel: Channel, last: int, patience: float = DEADLINE) -> None:
    """Wait until the node has delivered the channel's event number ``last``."""
    with trio.move_on_after(patience):
        while last not in node.got(channel):  # noqa: ASYNC110 - deliveries have no event of their own
            await trio.sleep(0.005)
    assert last in node.got(channel), (last, node.got(channel)[-5:])
