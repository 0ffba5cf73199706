"""What a reconnect brings back, and what it says is missing."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from trio.testing import MockClock

from gateway.client import Backoff, Client, Event, Lost
from protocol.envelope import Envelope
from tests.client.loops import settle
from tests.client.scripted import Peer, ScriptedGateway, beside, take

EXACT = Backoff(jitter=lambda: 1.0)


async def join(client: Client, peer: Peer, room: str = "r", seq: int = 0, **options: Any) -> None:
    async with beside(partial(peer.answer, room=room, epoch="e", seq=seq)):
        await client.join(room, **options)


async def rejoin(
    scripted: ScriptedGateway, *, epoch: str = "e", seq: int = 0, replayed: int = 0, recovered: bool = True
) -> Peer:
    """Accept the next connection and the one join that it begins with."""
    peer = await scripted.peer()
    data = {"recovered": recovered, "replayed": replayed}
    await peer.answer(room="r", epoch=epoch, seq=seq, data=data)
    return peer


def since(command: Envelope) -> tuple[str, int]:
    position = command.data["since"]
    return position["epoch"], position["seq"]


async def test_rooms_are_rejoined_from_the_last_event(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3, events=["a:*"], overflow="conflate", key="id")
        await peer.event(4)
        await peer.event(6)
        await peer.drop()
        assert [event.seq for event in await take(client, 2)] == [4, 6]
        peer = await rejoin(scripted, seq=8, replayed=2)
        assert peer.commands[0].data == {
            "since": {"epoch": "e", "seq": 6},
            "events": ["a:*"],
            "overflow": "conflate",
            "key": "id",
        }
        for seq in (7, 8, 9):
            await peer.event(seq)
        assert [event.seq for event in await take(client, 3)] == [7, 8, 9]


async def test_a_room_without_events_is_rejoined_from_its_position(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3)
        await peer.drop()
        assert since((await rejoin(scripted, seq=3)).commands[0]) == ("e", 3)


async def test_what_comes_twice_is_handed_on_once(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3)
        await peer.event(4)
        await take(client, 1)
        await peer.drop()
        peer = await rejoin(scripted, seq=5, replayed=2)
        for seq in (4, 5, 5):
            await peer.event(seq)
        await peer.event(6, mid="m5")  # the same message with another number
        await peer.event(7)
        assert [event.seq for event in await take(client, 2)] == [5, 7]


async def test_events_that_the_application_did_not_get_are_asked_for_again(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    """One event is in the buffer; the second was read when the link broke, but not handed on."""
    async with scripted.connect(buffer=1) as client:
        peer = await scripted.peer()
        await join(client, peer, seq=0)
        for seq in (1, 2, 3):
            await peer.event(seq)
        await settle()

        await peer.drop()
        await settle()
        with anyio.move_on_after(1) as scope:
            await client.info()  # so that the writer notices: the reader waits for room in the buffer
        assert scope.cancelled_caught
        peer = await rejoin(scripted, seq=3, replayed=2)
        assert since(peer.commands[0]) == ("e", 1)

        async def replay() -> None:
            await peer.event(2)
            await peer.event(3)

        async with beside(replay):
            assert [event.seq for event in await take(client, 3)] == [1, 2, 3]


async def test_a_hole_is_announced_in_its_place(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3)
        await peer.drop()
        peer = await rejoin(scripted, seq=9, replayed=2, recovered=False)
        await peer.event(8)
        await peer.event(9)
        lost, eight, nine = await take(client, 3)
        assert lost == Lost(room="r", epoch="e", from_seq=4, to_seq=7, reason="history")
        assert (lost.event, eight.seq, nine.seq) == ("lost", 8, 9)


async def test_a_new_epoch_is_announced(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=30)
        await peer.drop()
        peer = await rejoin(scripted, epoch="new", seq=0, recovered=False)
        await peer.event(1, epoch="new")
        lost, event = await take(client, 2)
        assert lost == Lost(room="r", epoch="e", from_seq=31, to_seq=None, reason="epoch")
        assert (event.seq, event.epoch) == (1, "new")
        await peer.drop()
        assert since((await rejoin(scripted, epoch="new", seq=1)).commands[0]) == ("new", 1)


async def test_a_first_join_with_since_announces_too(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        reply = {"room": "r", "epoch": "e", "seq": 9, "data": {"recovered": False, "replayed": 0}}
        async with beside(partial(peer.answer, **reply)):
            joined = await client.join("r", since=("e", 3))
        await peer.send("lost", room="r", epoch="e", data={"from": 4, "to": 9, "reason": "history"})
        assert (joined.recovered, joined.position) == (False, ("e", 9))
        assert await take(client, 1) == [Lost(room="r", epoch="e", from_seq=4, to_seq=9, reason="history")]


async def test_rooms_that_were_left_stay_left(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, "a")
        await join(client, peer, "r")
        async with beside(partial(peer.answer, room="a")):
            await client.leave("a")
        assert client.rooms == ("r",)
        await peer.drop()
        peer = await rejoin(scripted)
        assert peer.commands[0].room == "r"
        async with beside(partial(peer.answer, data=1)):
            await client.info()
        assert [command.t for command in peer.commands] == ["join", "info"]


async def test_the_filter_comes_before_the_rooms(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        async with beside(partial(peer.answer, data={"events": ["a:*"], "except": []})):
            await client.subscribe("a:*")
        async with beside(partial(peer.answer, data={"events": ["a:*"], "except": ["a:x"]})):
            await client.unsubscribe("a:x")
        await join(client, peer)
        await peer.drop()
        peer = await scripted.peer()
        for data in ({"events": ["a:*"], "except": []}, {"events": ["a:*"], "except": ["a:x"]}):
            await peer.answer(data=data)
        await peer.answer(room="r", epoch="e", seq=0, data={"recovered": True, "replayed": 0})
        said = [(command.t, command.data) for command in peer.commands]
        assert said[:2] == [("subscribe", {"events": ["a:*"]}), ("unsubscribe", {"events": ["a:x"]})]
        assert said[2][0] == "join"


async def test_commands_wait_until_the_rooms_are_back(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer)
        await peer.drop()

        async def serve() -> None:
            peer = await scripted.peer()
            command = await peer.receive()
            assert command.t == "join"
            await anyio.sleep(1)
            assert client.state == "reconnecting"
            await peer.reply(command, room="r", epoch="e", seq=0, data={"recovered": True, "replayed": 0})
            assert (await peer.answer(data=1)).t == "info"

        async with beside(serve):
            await client.info()
        assert client.state == "connected"


async def test_many_rooms_are_rejoined_some_at_a_time(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        names = [f"room:{n}" for n in range(100)]
        for name in names:
            await join(client, peer, name)
        await peer.drop()
        peer = await scripted.peer()
        await settle()
        waiting = [await peer.receive()]
        most = 0
        for _ in names[1:]:
            with anyio.move_on_after(0.001):
                while True:
                    waiting.append(await peer.receive())
            most = max(most, len(waiting))
            command = waiting.pop()
            await peer.reply(command, room=command.room, epoch="e", seq=0)
        for command in waiting:
            await peer.reply(command, room=command.room, epoch="e", seq=0)
        async with beside(partial(peer.answer, data=1)):
            await client.info()
        assert {command.room for command in peer.commands} == {*names, None}
        assert most == 32


async def test_a_gateway_that_is_not_ready_yet_is_asked_again(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(reconnect=EXACT) as client:
        peer = await scripted.peer()
        await join(client, peer)
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=302, message="no broker", data={"retry_after": 3.0})
        refused = anyio.current_time()
        await peer.answer("error", code=302, message="no broker")
        assert anyio.current_time() == refused + 3.5
        await peer.answer(room="r", epoch="e", seq=0, data={"recovered": True, "replayed": 0})
        assert anyio.current_time() == refused + 4.5
        await settle()
        assert client.state == "connected"
    assert len(scripted.dials) == 2


async def test_a_gateway_that_never_gets_ready_is_tried_anew(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(reconnect=Backoff(tries=2, jitter=lambda: 1.0)) as client:
        peer = await scripted.peer()
        await join(client, peer)
        await peer.drop()
        peer = await scripted.peer()
        for _ in range(3):
            await peer.answer("error", code=302, message="no broker")
        assert await peer.closed_with() == 1000
        assert len(peer.commands) == 3
        await rejoin(scripted)
        await settle()
        assert client.state == "connected"


async def test_a_gateway_that_does_not_answer_the_rejoin_is_tried_anew(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(command_timeout=5.0) as client:
        peer = await scripted.peer()
        await join(client, peer)
        await peer.drop()
        peer = await scripted.peer()
        assert (await peer.receive()).t == "join"
        asked = anyio.current_time()
        assert await peer.closed_with() == 1000
        assert anyio.current_time() == asked + 5
        await rejoin(scripted)


async def test_a_rejoin_does_not_time_out_while_the_application_takes_nothing(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(buffer=0, command_timeout=5.0, heartbeat=1000.0) as client:
        peer = await scripted.peer()
        await join(client, peer)
        await peer.drop()
        peer = await scripted.peer()
        await peer.event(None, room=None)  # sent to the user, before the reply
        command = await peer.receive()
        await peer.reply(command, room="r", epoch="e", seq=0, data={"recovered": True, "replayed": 0})
        await anyio.sleep(60)
        assert client.state == "reconnecting"
        await take(client, 1)
        await settle()
        assert client.state == "connected"
    assert len(scripted.dials) == 2


async def test_a_room_that_lets_the_client_in_no_more_is_a_loss(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3)
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=202, message="join is not allowed here")
        (lost,) = await take(client, 1)
        assert lost == Lost(
            room="r", epoch="e", from_seq=4, to_seq=None, reason="refused: 202: join is not allowed here"
        )
        assert client.rooms == ()
        async with beside(partial(peer.answer, data=1)):
            await client.info()
        assert client.state == "connected"


async def test_what_the_organisation_got_meanwhile_is_announced(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.event(5, room=None)
        assert (await take(client, 1))[0].seq == 5
        await peer.drop()
        await (await scripted.peer()).event(8, room=None)
        lost, event = await take(client, 2)
        assert lost == Lost(room=None, epoch="e", from_seq=6, to_seq=7, reason="disconnected")
        assert event.seq == 8


async def test_a_lost_range_can_be_repaired_on_the_same_connection(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, seq=3)
        await peer.event(4)
        await peer.send("lost", room="r", epoch="e", data={"from": 5, "to": 6, "reason": "slow"})
        await peer.event(7)
        items: list[Event] = await take(client, 3)
        lost = items[1]
        assert isinstance(lost, Lost)
        assert lost.epoch is not None

        async def replay() -> None:
            data = {"recovered": True, "replayed": 3}
            command = await peer.answer(room="r", epoch="e", seq=7, data=data)
            assert since(command) == ("e", 4)
            for seq in (5, 6, 7, 8):
                await peer.event(seq)

        async with beside(replay):
            await client.join("r", since=(lost.epoch, lost.from_seq - 1))
            assert [event.seq for event in await take(client, 3)] == [5, 6, 8]


async def test_a_join_in_flight_is_repeated(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()

        async def drop_and_serve() -> None:
            await peer.receive()
            await peer.drop()
            await (await scripted.peer()).answer(room="r", epoch="e", seq=1)

        async with beside(drop_and_serve):
            await client.join("r", since=("e", 1))
        assert client.rooms == ("r",)
