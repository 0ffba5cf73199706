"""The hub over an encoding that no WebSocket knows: lines of text."""

from __future__ import annotations

import pytest
import trio

from gateway.broker.base import Event
from protocol.encoding import websocket
from protocol.json import JSON
from protocol.patterns import EventFilter
from tests.hub.lines import Lines, Node


async def test_whole_frames_of_another_encoding_reach_its_members(node: Node) -> None:
    lines = Lines()
    far, connection = await node.connect("alice", lines)
    await node.hub.join(connection, "r", events=EventFilter.ALL)
    await node.hub.publish("acme", "r", "e", {"n": 1})
    await node.hub.publish("acme", None, "all")
    await node.hub.send_to_user("acme", "alice", "mine")
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


@pytest.mark.parametrize("members", [4, 160])
async def test_an_event_is_encoded_once_for_each_encoding(node: Node, members: int) -> None:
    lines, others = Lines(), websocket(JSON)
    there = [await node.connect(f"user{n}", lines if n % 2 else others) for n in range(members)]
    for number, (_, connection) in enumerate(there):  # in several groups of each encoding
        wanted = EventFilter.ALL if number % 4 < 2 else EventFilter.of(["e", f"other{number % 8}"])
        await node.hub.join(connection, "r", events=wanted)
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
    node.hub.broker.sink.lost(place.room.channel, 1, 2)
    node.hub.broker.sink.reset(place.room.channel, "another", 7)
    node.flush()
    assert [(each["t"], each["data"]) for each in far.lines()] == [
        ("presence", {"user": "bob"}),
        ("lost", {"from": 1, "to": 2, "reason": "broker"}),
        ("lost", {"from": 3, "reason": "epoch", "next": {"epoch": "another", "seq": 7}}),
    ]


async def test_of_many_filters_an_event_asks_each_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    allows = EventFilter.allows

    def counted(self: EventFilter, event: str) -> bool:
        nonlocal asked
        asked += 1
        return allows(self, event)

    there = [await node.connect(f"user{n}", Lines()) for n in range(60)]
    for n, (_, connection) in enumerate(there):
        await node.hub.join(connection, "r", events=EventFilter.of([f"{n}:*"]))
    monkeypatch.setattr(EventFilter, "allows", counted)
    for _ in range(10):
        await node.hub.publish("acme", "r", "7:x")
    assert asked < 200
    # Whoever comes, goes or changes the filter is asked anew.
    await node.hub.join(there[8][1], "r", events=EventFilter.of(["7:*"]))
    node.hub.leave(there[7][1], "r")
    node.hub.set_filter(there[9][1], EventFilter.of(["none"]))
    await node.hub.join(there[10][1], "r", events=EventFilter.ALL)
    for n in range(40):  # more names than are remembered
        await node.hub.publish("acme", "r", f"{n}:x")
    node.flush()
    came = [[line["event"] for line in far.lines()] for far, _ in there]
    assert came[7] == ["7:x"] * 10
    assert came[8] == ["7:x"]
    assert came[9] == [] and came[11] == ["11:x"]
    assert came[10] == [f"{n}:x" for n in range(40)]


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
