"""A broker that takes its time, as one behind a network does: nothing is lost, repeated or left over."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from gateway.testing.broker import FaultyBroker
from gateway.testing.node import Node, run_node
from protocol.errors import ErrorCode as E
from tests.support import DEADLINE, until


def slow_down(node: Node) -> FaultyBroker:
    """Let the node's broker answer after up to 0.2 virtual seconds; what it answers may be old by then."""
    node.broker.delay = 0.1
    return node.broker


async def test_nothing_falls_between_replay_and_live(clock: MockClock) -> None:
    """Members come and go while somebody publishes: everyone has every number after his first, once."""
    rounds, seen, rng = 40, 0, random.Random(7)
    async with run_node() as node:
        slow_down(node)

        async def publisher() -> None:
            while True:
                await node.gateway.hub.publish("acme", "r", "e", size=10)
                await trio.sleep(0.013)

        async def member(number: int) -> None:
            nonlocal seen
            async with node.raw(user=f"m{number}") as client:
                position: tuple[str, int] | None = None
                for _ in range(rounds):
                    since = {} if position is None else {"epoch": position[0], "seq": position[1]}
                    data = {"since": since} if since else None
                    reply = await client.ask("join", room="r", data=data)
                    assert reply.t == "reply", reply
                    if position is None:
                        position = (reply.epoch or "", reply.seq or 0)
                    await trio.sleep(rng.random() / 4)
                    await client.send("leave", id=999_999, room="r")
                    while (message := await client.receive()).id != 999_999:
                        client.events.append(message)
                    for event in client.events:
                        assert (event.t, event.seq) == ("event", position[1] + 1), event
                        position = (event.epoch or "", position[1] + 1)
                        seen += 1
                    client.events.clear()

        async with trio.open_nursery() as publishing:
            publishing.start_soon(publisher)
            async with trio.open_nursery() as members:
                for number in range(4):
                    members.start_soon(member, number)
            publishing.cancel_scope.cancel()
    assert seen > rounds * 4 * 5


async def test_a_slow_subscribe_of_one_does_not_harm_another(clock: MockClock) -> None:
    """The last member leaves while the next one is half in; both the room and its channel must live."""
    rng = random.Random(7)
    async with run_node() as node:
        broker = slow_down(node)
        async with node.raw() as alice, node.raw(user="bob") as bob:
            for number in range(30):
                await alice.ask("join", room="r")
                await bob.send("join", id=1000 + number, room="r")
                await trio.sleep(rng.random() / 5)
                await alice.ask("leave", room="r")
                while (await bob.receive()).id != 1000 + number:
                    pass
                await node.gateway.hub.publish("acme", "r", "e")
                assert [event.event for event in await bob.settled()][-1:] == ["e"]
                assert "acme\0r\0r" in broker._subscribed
                await bob.ask("leave", room="r")
                assert "acme\0r\0r" not in broker._subscribed
                assert not node.gateway.hub.organisations["acme"].rooms


async def test_joining_again_at_a_position_keeps_the_order(clock: MockClock) -> None:
    """The member hears the room all the time; what comes during the second join comes behind its replay."""
    async with run_node() as node:
        slow_down(node)
        async with node.raw() as alice, node.raw(user="bob") as bob:
            epoch = (await alice.ask("join", room="r")).epoch
            for _ in range(20):
                before = (await bob.ask("publish", room="r", event="e")).seq or 0
                await alice.send("join", id=77, room="r", data={"since": {"epoch": epoch, "seq": 0}})
                for _ in range(5):
                    await trio.sleep(0.03)
                    await bob.ask("publish", room="r", event="e")
                while (reply := await alice.receive()).id != 77:
                    assert (reply.seq or 0) <= before, "what came during the join comes behind the reply"
                expected = 0
                last = (await bob.ask("publish", room="r", event="last")).seq or 0
                while expected < last:
                    event = await alice.receive()
                    assert (event.t, event.seq) == ("event", expected + 1)
                    expected += 1
                assert reply.data["recovered"] is True


async def test_resuming_many_rooms_keeps_the_order_of_each(clock: MockClock) -> None:
    """The first room is live long before the last one is entered; nothing of it may pass its own replay."""
    rooms = [f"r{number}" for number in range(8)]
    async with run_node() as node:
        slow_down(node)
        async with node.raw() as alice:
            for room in rooms:
                await alice.ask("join", room=room)
            token = alice.greeting.data["resume"]
        await until(lambda: not node.gateway.hub.connections)
        for room in rooms:
            await node.gateway.hub.publish("acme", room, "missed")
        async with trio.open_nursery() as nursery:

            async def publisher() -> None:
                while True:
                    for room in rooms:
                        await node.gateway.hub.publish("acme", room, "e", critical=room == "r7")
                    await trio.sleep(0.03)

            nursery.start_soon(publisher)
            async with node.raw() as alice:
                await alice.ask("join", room="early")
                reply = await alice.ask("join", data={"resume": token})
                assert {event.room for event in alice.events} <= {"r7"}, "only critical events pass the reply"
                await trio.sleep(1)
                seen: dict[str | None, list[int]] = {}
                for event in await alice.settled():
                    assert event.t == "event", event
                    seen.setdefault(event.room, []).append(event.seq or 0)
            nursery.cancel_scope.cancel()
        assert set(seen) == set(reply.data["rooms"]) == set(rooms)
        for room in rooms[:-1]:
            assert seen[room] == list(range(1, len(seen[room]) + 1)) and len(seen[room]) > 20
        assert sorted(seen["r7"]) == list(range(1, len(seen["r7"]) + 1))


async def test_a_resume_that_takes_too_long_leaves_nothing_half_done(clock: MockClock) -> None:
    async with run_node(connection={"command_timeout": 4.0}) as node:
        broker = slow_down(node)
        async with node.raw() as alice:
            for number in range(40):
                await alice.ask("join", room=f"r{number}")
            token = alice.greeting.data["resume"]
        await until(lambda: not node.gateway.hub.connections)
        async with node.raw() as alice:
            refused = await alice.ask("join", data={"resume": token})  # 40 rooms of 0.2 s each
            assert (refused.t, refused.code) == ("error", E.TIMEOUT)
            assert (await alice.ask("info")).data["rooms"] == []
            await trio.sleep(1)
            assert not node.gateway.hub.organisations["acme"].rooms
            assert broker._subscribed == {"acme\0o", "acme\0u\0alice"}


async def test_the_greeting_comes_first(clock: MockClock) -> None:
    async with run_node() as node:
        slow_down(node)

        async def broadcast() -> None:
            while True:
                await node.gateway.hub.publish("acme", None, "news")
                await node.gateway.hub.send_to_user("acme", "alice", "direct")
                await trio.sleep(0.01)

        async with node.raw(user="bob"), trio.open_nursery() as nursery:
            nursery.start_soon(broadcast)
            for _ in range(10):
                async with node.raw() as alice:  # which fails when the greeting is not the first
                    assert {(await alice.event()).event for _ in range(2)} == {"news", "direct"}
            nursery.cancel_scope.cancel()


async def test_a_join_that_gets_no_answer_leaves_all_as_it_was(clock: MockClock) -> None:
    async with run_node(connection={"command_timeout": 4.0}) as node:
        broker = slow_down(node)
        async with node.raw() as alice, node.raw(user="bob") as bob:
            for client in (alice, bob):
                epoch = (await client.ask("join", room="r", data={"events": ["e"]})).epoch
            for room in ("r", "new"):
                broker.stuck = True
                begun = trio.current_time()
                since = {"epoch": epoch, "seq": 0}
                await alice.send("join", id=5, room=room, data={"since": since, "events": ["x"]})
                await bob.ask("publish", room="r", event="e")
                while (refused := await alice.receive()).id != 5:
                    alice.events.append(refused)
                assert (refused.code, refused.data) == (E.TIMEOUT, {"retry_after": 1.0})
                assert trio.current_time() - begun < 5
                broker.stuck = False
                await trio.sleep(1)
            await bob.ask("publish", room="r", event="e")
            await trio.sleep(1)
            assert [event.seq for event in await alice.settled()] == [1, 2, 3]
            assert set(node.gateway.hub.organisations["acme"].rooms) == {"r"}
            assert "acme\0r\0new" not in broker._subscribed


async def test_a_broker_that_gets_stuck_at_the_greeting(clock: MockClock) -> None:
    async with run_node(connection={"command_timeout": 4.0}) as node:
        broker = slow_down(node)
        broker.stuck = True
        async with node.raw(greet=False) as alice:
            assert (await alice.closed()).code == 1013
            (closing,) = alice.events
            assert (closing.t, closing.code) == ("closing", 1013)
            assert closing.data == {"reconnect": True, "retry_after": 1.0}
        assert node.gateway.hub.counters.closes == {1013: 1}, "counted as what the client was told"
        assert (
            not node.gateway.hub.connections
            and not node.gateway.hub.organisations
            and not node.gateway.hub.channels
        )


async def test_who_goes_away_half_way_in_leaves_nothing(clock: MockClock) -> None:
    async with run_node() as node:
        broker = slow_down(node)
        identity = await node.gateway.auth.verify(node.token())
        async with node.raw(org="other") as other:
            (session,) = node.gateway.sessions
            broker.stuck = True
            with trio.move_on_after(1):
                await node.gateway.hub.connect(
                    identity=identity, encoding=session.encoding, peer=session, ip="memory"
                )
            assert set(node.gateway.hub.organisations) == {"other"}
            assert len(node.gateway.hub.connections) == 1
            await other.send("join", room="r")
        await trio.sleep(DEADLINE)
        assert (
            not node.gateway.hub.connections
            and not node.gateway.hub.organisations
            and not node.gateway.hub.channels
        )
