"""The hub over an encoding that no WebSocket knows: lines of text."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio

from gateway.auth.identity import Grants, Identity
from gateway.broker.base import Event
from gateway.broker.memory import MemoryBroker
from gateway.config.settings import Settings
from gateway.hub.connection import Connection
from gateway.hub.hub import Hub
from gateway.wire.engine import Engine
from gateway.wire.outbox import Outbox
from protocol.encoding import Encoding, websocket
from protocol.envelope import Envelope
from protocol.json import JSON
from protocol.patterns import EventFilter

Told = list[dict[str, Any]]


class Lines:
    """An envelope is a line of JSON, as a stream of server-sent events or a log would have it."""

    subprotocol = "lines"
    binary = False

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, envelope: Envelope) -> bytes:
        self.encoded.append(envelope.t)
        return JSON.encode(envelope) + b"\n"


class Far:
    """A client that is not behind a WebSocket, with the other end of its socket."""

    def __init__(self, outbox: Outbox, end: socket.socket) -> None:
        self.outbox = outbox
        self.end = end
        self.received_messages = self.received_bytes = 0
        self.caught_up = 0

    def close(self, code: int, reason: str, *, retry_after: float | None = None) -> None:
        self.outbox.shut()

    def give_way(self, token: str) -> bytes:
        return b""

    def catch_up(self) -> None:
        self.caught_up += 1

    def dropped(self, event: Event, policy: str) -> None: ...

    def is_typing(self, room: str) -> bool:
        return False

    def read(self) -> bytes:
        """What has come since the last time."""
        came = b""
        while True:
            try:
                came += self.end.recv(65536)
            except BlockingIOError:
                return came

    def lines(self) -> Told:
        return [msgspec.json.decode(line) for line in self.read().splitlines()]


class Node:
    """A hub with its broker and flusher, and nothing else."""

    def __init__(self) -> None:
        self.flusher = Engine().flusher
        self.hub = Hub(MemoryBroker(Settings().history), self.flusher, node="n")
        self.sockets: list[socket.socket] = []

    async def connect(self, user: str, encoding: Encoding) -> tuple[Far, Connection]:
        ours, theirs = socket.socketpair()
        self.sockets += ours, theirs
        for end in (ours, theirs):
            end.setblocking(False)
        far = Far(Outbox(self.flusher, ours, max_messages=100, max_bytes=1_000_000), theirs)
        identity = Identity("acme", user, frozenset(), Grants.ALL)
        connection = await self.hub.connect(identity=identity, encoding=encoding, peer=far, ip="here")
        return far, connection

    def flush(self) -> None:
        while self.flusher.active:
            self.flusher.flush()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield made
    for each in made.sockets:
        each.close()


async def test_whole_frames_of_another_encoding_reach_its_members(node: Node) -> None:
    lines = Lines()
    far, connection = await node.connect("alice", lines)
    await node.hub.join(connection, "r", events=EventFilter.ALL)
    await node.hub.publish("acme", "r", "e", {"n": 1})
    await node.hub.publish("acme", None, "all")
    node.hub.send_to_user("acme", "alice", "mine")
    node.hub.send_to_connection("acme", connection.id, "only")
    node.flush()
    told = far.lines()
    assert [(each["t"], each["event"], each.get("room")) for each in told] == [
        ("event", "e", "r"),
        ("event", "all", None),
        ("event", "mine", None),
        ("event", "only", None),
    ]
    assert told[0]["data"] == {"n": 1} and told[0]["seq"] == 1
    assert connection.describe()["subprotocol"] == "lines"
    assert connection.messages_out == 4


@pytest.mark.parametrize("members", [2, 40])
async def test_an_event_is_encoded_once_for_each_encoding(node: Node, members: int) -> None:
    lines, others = Lines(), websocket(JSON)
    there = [await node.connect(f"user{n}", lines if n % 2 else others) for n in range(members)]
    for _, connection in there:
        await node.hub.join(connection, "r", events=EventFilter.ALL)
    before = node.hub.counters.deliveries
    for n in range(3):
        await node.hub.publish("acme", "r", "e", n)
    node.flush()
    assert lines.encoded == ["event"] * 3
    assert node.hub.counters.deliveries == before + 3 * members
    expected = b"".join(JSON.encode(event.envelope()) + b"\n" for event in await kept(node))
    for number, (far, _) in enumerate(there):
        came = far.read()
        assert came == expected if number % 2 else came.startswith(b"\x81\x7e")


async def test_presence_and_losses_are_told_in_it_as_well(node: Node) -> None:
    lines = Lines()
    far, connection = await node.connect("alice", lines)
    await node.hub.presence.watch(connection, "r")
    place, _ = await node.hub.join(connection, "r", events=EventFilter.ALL)
    node.hub.presence.begin(place.room.channel, connection)
    _, other = await node.connect("bob", websocket(JSON))
    await node.hub.join(other, "r", events=EventFilter.ALL)
    node.hub.broker.lost(place.room.channel, 1, 2)
    node.hub.broker.reset(place.room.channel, "another", 7)
    node.flush()
    assert [(each["t"], each["data"]) for each in far.lines()] == [
        ("presence", {"user": "bob"}),
        ("lost", {"from": 1, "to": 2, "reason": "broker"}),
        ("lost", {"from": 3, "reason": "epoch", "next": {"epoch": "another", "seq": 7}}),
    ]


async def kept(node: Node) -> list[Event]:
    return (await node.hub.history("acme", "r", limit=100)).events


async def test_the_census_counts_what_is_there_and_nothing_afterwards(node: Node) -> None:
    there = [await node.connect(user, Lines()) for user in ("alice", "alice", "bob")]
    for _, connection in there:
        await node.hub.join(connection, "r", events=EventFilter.ALL)
    place = there[0][1].memberships["r"]
    place.fall_behind(0, by_replay=True)
    census = node.hub.census()
    assert {name: census[name] for name in ("connections", "organisations", "rooms", "users")} == {
        "connections": 3,
        "organisations": 1,
        "rooms": 1,
        "users": 2,
    }
    assert (census["channels"], census["memberships"], census["lags"], census["taps"]) == (4, 3, 1, 0)
    for _, connection in there:
        node.hub.disconnected(connection, 1000)
    await trio.lowlevel.checkpoint()
    assert {name: count for name, count in node.hub.census().items() if count} == {"retired": 1}
