"""Rooms with very many filters: a new name is judged piece by piece, and the order stays what it is."""

from __future__ import annotations

import pytest
import trio

from gateway.hub import judging
from protocol.patterns import EventFilter
from tests.hub.lines import Far, Lines, Node
from tests.support import until

MEMBERS = 150


async def crowd(node: Node, members: int = MEMBERS) -> list[Far]:
    """Each with filters of their own; all want ``task:*``."""
    lines, found = Lines(), []
    for number in range(members):
        far, connection = await node.connect(f"user{number}", lines)
        await node.hub.join(connection, "r", events=EventFilter.of(["task:*", f"own{number}:*"]))
        found.append(far)
    return found


def heard(far: Far) -> list[tuple[str, int]]:
    return [(each["event"], each["seq"]) for each in far.lines() if each["t"] == "event"]


async def test_names_that_no_filter_has_seen_keep_their_order(node: Node, nursery: trio.Nursery) -> None:
    nursery.start_soon(node.hub.judging.run)
    members = await crowd(node)
    await trio.testing.wait_all_tasks_blocked()
    room = next(iter(room for room in node.hub.channels.values() if room.name == "r"))
    for number in range(40):  # more names than a room remembers, and known ones among them
        await node.hub.publish("acme", "r", f"task:{number}")
        await node.hub.publish("acme", "r", "task:known")
        await node.hub.publish("acme", "r", f"own7:{number}")
    assert room.waiting
    late, connection = await node.connect("late", Lines())
    place, _ = await node.hub.join(connection, "r", events=EventFilter.of(["task:*"]))
    assert place.lag is not None  # ahead of the room, which gets there
    await node.hub.publish("acme", "r", "task:last")
    await until(lambda: room.waiting is None, "all is judged")
    node.flush()
    everything = [
        (f"task:{n // 3}", n + 1) if n % 3 == 0 else ("task:known", n + 1) for n in range(120) if n % 3 < 2
    ]
    everything.append(("task:last", 121))
    own = sorted([*everything, *((f"own7:{n}", 3 * n + 3) for n in range(40))], key=lambda each: each[1])
    for number, far in enumerate(members):
        assert heard(far) == (own if number == 7 else everything)
    assert heard(late) == [("task:last", 121)]
    assert node.hub.counters.deliveries == MEMBERS * len(everything) + 40 + 1


async def test_few_groups_are_left(node: Node, nursery: trio.Nursery) -> None:
    """What waits is not overtaken when the room has become small."""
    nursery.start_soon(node.hub.judging.run)
    members = await crowd(node)
    await trio.testing.wait_all_tasks_blocked()
    await node.hub.publish("acme", "r", "task:1")
    for connection in list(node.hub.connections.values())[10:]:
        node.hub.leave(connection, "r")
    await node.hub.publish("acme", "r", "task:2")
    node.flush()
    assert [heard(far) for far in members[:10]] == [[("task:1", 1), ("task:2", 2)]] * 10


@pytest.mark.parametrize("running", [True, False])
async def test_too_much_waits(
    node: Node, nursery: trio.Nursery, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the oldest does not wait, as if there were no judging at all."""
    monkeypatch.setattr(judging, "_MOST", 4)
    if running:
        nursery.start_soon(node.hub.judging.run)
    members = await crowd(node)
    await trio.testing.wait_all_tasks_blocked()
    room = next(iter(room for room in node.hub.channels.values() if room.name == "r"))
    for number in range(10):
        node.hub.submit("acme", "r", f"task:{number}", None, lambda _: None, None, None, None, False, 1)
        assert len(room.waiting or ()) <= (4 if running else 0)
    node.flush()
    assert len(heard(members[0])) == (6 if running else 10)
    room.lost(11, 12)  # what is lost afterwards comes afterwards
    node.flush()
    assert [each["t"] for each in members[1].lines()] == ["event"] * 10 + ["lost"]
