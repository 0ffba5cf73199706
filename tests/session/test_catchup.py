"""Catching up when things change meanwhile: the room is left or joined again, the broker fails or forgets."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.broker.base import Event
from gateway.hub.room import Membership
from gateway.testing.node import Node, run_node
from protocol.envelope import Envelope
from tests.support import Raw, connected, running_gateway, until

PAD = "x" * 2000
POLICIES = pytest.mark.parametrize("policy", ["drop_oldest", "conflate", "replay"])


async def publish(node: Node, rounds: int, room: str = "r", **data: Any) -> None:
    for number in range(rounds):
        await node.gateway.hub.publish("acme", room, "e", {"key": number, "pad": PAD, **data}, size=len(PAD))


async def join(client: Raw, policy: str, room: str = "r") -> str:
    reply = await client.ask("join", room=room, data={"overflow": policy})
    assert reply.epoch is not None, reply
    return reply.epoch


def place_of(node: Node, user: str = "alice", room: str = "r") -> Membership:
    (found,) = [each for each in node.gateway.hub.connections.values() if each.user == user]
    return found.memberships[room]


async def fall_behind(node: Node, client: Raw, room: str = "r") -> Membership:
    """Let the client read nothing until its place lags."""
    client.link.down.stall()
    place = place_of(node, room=room)
    while place.lag is None:
        await publish(node, 10, room)
        await trio.testing.wait_all_tasks_blocked()
    await publish(node, 20, room)
    return place


async def answer(client: Raw, id: int) -> tuple[list[Envelope], Envelope]:
    """What comes before the answer to command ``id``, and that."""
    before = []
    while (message := await client.receive()).id != id:
        before.append(message)
    return before, message


def gapless(messages: list[Envelope], after: int) -> int:
    """Fails unless the messages go on from ``after`` in order, nothing twice; returns the last number."""
    for message in messages:
        if message.t == "lost":
            assert message.data["from"] == after + 1, (message, after)
            after = message.data["to"]
        else:
            assert (message.t, message.seq) == ("event", after + 1), (message.t, message.seq, after)
            after += 1
    return after


# --- leaving and joining again ------------------------------------------------------------------------


@POLICIES
async def test_nothing_comes_from_a_room_that_was_left(policy: str, clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await join(alice, policy)
        place = await fall_behind(node, alice)
        node.broker.stuck = True
        alice.link.down.resume()
        await alice.ask("ping")  # now the catch-up waits for the history
        await alice.send("leave", id=9, room="r")
        await answer(alice, 9)
        alice.events.clear()
        node.broker.stuck = False
        await publish(node, 3)
        await trio.sleep(1)
        assert await alice.settled() == []
        assert place.group is None and place.room.empty


@POLICIES
async def test_a_join_at_a_position_starts_over_from_there(policy: str, clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        epoch = await join(alice, policy)
        for room in ("other", "third"):
            await join(alice, "replay", room)
        await fall_behind(node, alice)
        for room in ("other", "third"):
            await fall_behind(node, alice, room)
        node.broker.delay = 1.0
        data = {"since": {"epoch": epoch, "seq": 3}, "overflow": policy}
        await alice.send("join", id=9, room="r", data=data)
        alice.link.down.resume()
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                for _ in range(20):
                    await trio.sleep(0.1)
                    await publish(node, 1)

            nursery.start_soon(go_on)
            before, reply = await answer(alice, 9)
            assert reply.t == "reply" and reply.data["recovered"] is True
            seqs = [event.seq or 0 for event in before if event.room == "r"]
            assert max(seqs) <= (reply.seq or 0), "what comes during the join comes behind its reply"
            position = 3
            while position < place_of(node).room.seq or nursery.child_tasks:
                message = await alice.receive()
                if message.room == "r":
                    position = gapless([message], position)


async def test_a_join_while_history_is_being_read_brings_nothing_twice(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def subscribe(channel: str) -> None:
        await trio.sleep(3)  # so what the catch-up has asked for comes first

    async with run_node() as node, node.raw() as alice:
        epoch = await join(alice, "replay")
        await fall_behind(node, alice)
        node.broker.stuck = True
        alice.link.down.resume()
        position = gapless(await alice.settled(), 0)
        monkeypatch.setattr(node.broker, "subscribe", subscribe)
        await alice.send("join", id=9, room="r", data={"since": {"epoch": epoch, "seq": position}})
        await trio.testing.wait_all_tasks_blocked()
        node.broker.stuck = False
        before, reply = await answer(alice, 9)
        assert (before, reply.t) == ([], "reply")
        while position < place_of(node).room.seq:
            position = gapless([await alice.receive()], position)
        await trio.sleep(1)
        assert await alice.settled() == []


async def test_a_join_that_fails_lets_the_catch_up_go_on(clock: MockClock) -> None:
    async with run_node(connection={"command_timeout": 4.0}) as node, node.raw() as alice:
        epoch = await join(alice, "replay")
        await fall_behind(node, alice)
        node.broker.stuck = True
        await alice.send("join", id=9, room="r", data={"since": {"epoch": epoch, "seq": 3}})
        await trio.sleep(5)
        node.broker.stuck = False
        alice.link.down.resume()
        before, refused = await answer(alice, 9)
        assert (refused.t, refused.code) == ("error", 303)
        last = gapless([event for event in before if event.room == "r"], 0)
        while last < place_of(node).room.seq:
            last = gapless([await alice.receive()], last)
        await publish(node, 1)
        assert gapless([await alice.receive()], last) == place_of(node).room.seq


async def test_a_resume_replays_each_room_before_what_is_new_in_it(clock: MockClock) -> None:
    """The rooms are entered one after the other; what comes meanwhile in one comes behind its replay."""
    rooms = [f"r{number}" for number in range(5)]
    async with run_node() as node:
        async with node.raw() as alice:
            token = alice.greeting.data["resume"]
            for room in rooms:
                await join(alice, "disconnect", room)
                await publish(node, 2, room)
        await until(lambda: not node.gateway.hub.connections)
        for room in rooms:
            await publish(node, 3, room)
        node.broker.delay = 0.7
        async with node.raw() as alice, trio.open_nursery() as nursery:

            async def go_on() -> None:
                for _ in range(30):
                    await trio.sleep(0.2)
                    for room in rooms:
                        await publish(node, 1, room)

            nursery.start_soon(go_on)
            await alice.send("join", id=9, data={"resume": token})
            before, reply = await answer(alice, 9)
            assert (before, reply.t) == ([], "reply")
            positions = dict.fromkeys(rooms, 0)
            while nursery.child_tasks or any(
                positions[room] < place_of(node, room=room).room.seq for room in rooms
            ):
                message = await alice.receive()
                assert message.room is not None
                positions[message.room] = gapless([message], positions[message.room])
            assert set(positions.values()) == {2 + 3 + 30}


# --- the broker -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 1.0])
async def test_a_replay_waits_for_a_broker_that_is_away(delay: float, clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await join(alice, "replay")
        place = await fall_behind(node, alice)
        last = place.room.seq
        node.broker.delay = delay
        node.broker.unreachable = True
        alice.link.down.resume()
        await trio.sleep(30)
        assert (await alice.ask("ping")).t == "pong"
        node.broker.unreachable = False
        events, alice.events = alice.events, []
        while not events or events[-1].seq != last:
            events.append(await alice.event())
        assert [event.seq for event in events] == list(range(1, last + 1))


async def all_until(client: Raw, epoch: str, seq: int) -> list[Envelope]:
    """Everything up to an event, what came earlier included; fails when more comes."""
    messages, client.events = client.events, []
    while not messages or (messages[-1].epoch, messages[-1].seq) != (epoch, seq):
        messages.append(await client.receive())
    await trio.sleep(1)
    assert await client.settled() == []
    return messages


def anew(messages: list[Envelope], old: str) -> list[Envelope]:
    """Those of the new epoch, which must be the last ones."""
    news = [message for message in messages if message.epoch != old]
    assert messages[-len(news) :] == news
    return news


@POLICIES
@pytest.mark.parametrize("newer", [0, 5, 70])
async def test_a_room_that_begins_anew(policy: str, newer: int, clock: MockClock) -> None:
    """The broker has lost everything, while somebody lags: from the new beginning on nothing is missing."""
    async with run_node() as node, node.raw() as alice:
        await join(alice, policy)
        place = await fall_behind(node, alice)
        old = place.room.epoch
        node.broker.forget()
        await publish(node, newer)
        alice.link.down.resume()
        await alice.ask("ping")
        await trio.sleep(1)
        await publish(node, 2)
        news = anew(await all_until(alice, place.room.epoch, newer + 2), old)
        assert gapless(news, 0) == newer + 2
        assert place.lag is None


@pytest.mark.parametrize("stale", [0, 5], ids=["", "behind old ones"])
async def test_a_room_that_begins_anew_before_this_node_hears_of_it(stale: int, clock: MockClock) -> None:
    """What was read ahead from the history does not come again when the node is told of it."""
    async with run_node() as node, node.raw() as alice:
        await join(alice, "replay")
        place = await fall_behind(node, alice)
        old, last = place.room.epoch, place.room.seq
        late: list[Event] = []
        deliver, node.broker.sink.deliver = node.broker.sink.deliver, late.append
        await publish(node, stale)
        node.broker.forget()
        await publish(node, last)
        alice.link.down.resume()
        news = anew(await all_until(alice, late[-1].epoch or "", last), old)
        assert gapless(news, 0) == last
        node.broker.sink.deliver = deliver
        for event in late:
            deliver(event)
        await publish(node, 1)
        assert gapless(await all_until(alice, place.room.epoch, last + 1), last) == last + 1
        assert place.lag is None


async def test_a_room_that_began_anew_before_a_join(clock: MockClock) -> None:
    """The new member has read what this node has still to be told; it does not come again."""
    async with run_node() as node, node.raw() as alice, node.raw(user="bob") as bob:
        old = await join(bob, "disconnect")
        await publish(node, 10)
        late: list[Event] = []
        deliver, node.broker.sink.deliver = node.broker.sink.deliver, late.append
        node.broker.forget()
        await publish(node, 3)
        data = {"since": {"epoch": old, "seq": 10}}
        assert (await alice.ask("join", room="r", data=data)).data == {"recovered": False, "replayed": 3}
        node.broker.sink.deliver = deliver
        for event in late:
            deliver(event)
        await publish(node, 1)
        assert gapless(await all_until(alice, late[0].epoch or "", 4), 0) == 4


async def test_a_room_that_begins_anew_when_a_member_is_ahead_of_its_node(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await join(alice, "replay")
        place = await fall_behind(node, alice)
        old = place.room.epoch
        deliver, node.broker.sink.deliver = node.broker.sink.deliver, lambda event: None
        await publish(node, 3)
        alice.link.down.resume()
        gapless(await all_until(alice, old, place.room.seq + 3), 0)
        node.broker.sink.deliver = deliver
        node.broker.forget()
        await publish(node, 2)
        assert gapless(await all_until(alice, place.room.epoch, 2), 0) == 2
        await publish(node, 1)
        assert gapless(await all_until(alice, place.room.epoch, 3), 2) == 3


# --- the queue --------------------------------------------------------------------------------------------


@POLICIES
@pytest.mark.parametrize(
    "limits", [{"queue_bytes": 65536}, {"queue_messages": 10}], ids=["bytes", "messages"]
)
async def test_what_waits_may_be_far_more_than_the_queue_holds(
    policy: str, limits: dict[str, int], clock: MockClock
) -> None:
    async with run_node(limits=limits, history={"messages": 100}) as node:
        async with node.raw() as alice:
            await join(alice, policy)
            await fall_behind(node, alice)
            last = place_of(node).room.seq
            for number in range(40):
                data = {"key": number, "pad": "x" * 30_000}
                await node.gateway.hub.publish("acme", "r", "e", data, size=30_000)
            alice.link.down.resume()
            position = 0
            while position < last + 40:
                position = gapless([await alice.receive()], position)


async def test_a_long_replay_of_a_join_fits_into_a_small_queue(clock: MockClock) -> None:
    limits = {"queue_bytes": 65536, "queue_messages": 10}
    async with run_node(limits=limits, history={"messages": 1000, "bytes": 2**26}) as node:
        await publish(node, 500)
        epoch = (await node.gateway.hub.history("acme", "r", limit=1)).epoch
        async with node.raw() as alice:
            reply = await alice.ask("join", room="r", data={"since": {"epoch": epoch, "seq": 0}})
            assert reply.data == {"recovered": True, "replayed": 500}
            assert gapless([await alice.receive() for _ in range(500)], 0) == 500


async def test_no_room_waits_for_another_ones_backlog(clock: MockClock) -> None:
    async with (
        run_node(history={"messages": 2000, "bytes": 2**26}) as node,
        node.raw() as alice,
    ):
        for room in ("long", "short"):
            await join(alice, "replay", room)
        for room in ("long", "short"):
            await fall_behind(node, alice, room)
        await publish(node, 1000, "long")
        alice.link.down.resume()
        rooms: list[str | None] = []
        while rooms.count("short") < place_of(node, room="short").room.seq:
            rooms.append((await alice.receive()).room)
        assert len(rooms) < 500


async def test_others_have_their_turns_while_somebody_catches_up() -> None:
    async with running_gateway(history={"messages": 5000, "bytes": 2**26}) as gateway:
        async with connected(gateway, user="alice") as alice:
            await alice.ask("join", room="r", data={"overflow": "replay"})
            (connection,) = gateway.hub.connections.values()
            place = connection.memberships["r"]
            place.fall_behind(0)
            for _ in range(3000):
                await gateway.hub.publish("acme", "r", "e", size=10)
            turns = 0

            async def watch() -> None:
                nonlocal turns
                while place.lag is not None:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                connection.peer.catch_up()
                nursery.start_soon(watch)
                for number in range(3000):
                    assert (await alice.event()).seq == number + 1
                await until(lambda: place.lag is None)
            assert turns > 3000 / 64 / 2
