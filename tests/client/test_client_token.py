"""Coming back with the resume token: one command restores everything, and what to do when it does not."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from trio.testing import MockClock

from gateway.client import Backoff, Client, Lost
from protocol.envelope import Envelope
from tests.client.scripted import WELCOME, Peer, ScriptedGateway, beside, take

EXACT = Backoff(jitter=lambda: 1.0)


def welcome(scripted: ScriptedGateway, token: str, **more: Any) -> None:
    """The next connections get this token."""
    scripted.welcome = {**WELCOME, "resume": token, **more}


async def join(client: Client, peer: Peer, room: str, seq: int = 0, **options: Any) -> None:
    async with beside(partial(peer.answer, room=room, epoch="e", seq=seq)):
        await client.join(room, **options)


async def subscribe(client: Client, peer: Peer, event: str) -> None:
    async with beside(partial(peer.answer, data={"events": [event], "except": []})):
        await client.subscribe(event)


async def answer_resume(
    peer: Peer, rooms: dict[str, Any], events: tuple[str, ...] = ("*",), excepted: tuple[str, ...] = ()
) -> Envelope:
    data = {"rooms": rooms, "events": list(events), "except": list(excepted)}
    command = await peer.answer(data=data)
    assert (command.t, command.room) == ("join", None)
    return command


def restored(seq: int, replayed: int = 0, *, recovered: bool = True) -> dict[str, Any]:
    return {"epoch": "e", "seq": seq, "recovered": recovered, "replayed": replayed}


async def said_after(client: Client, peer: Peer) -> list[str]:
    """The commands up to one that the application gives now."""
    count = len(peer.commands)
    async with beside(partial(answer_all, peer)):
        await client.info()
    return [command.t for command in peer.commands[count:-1]]


async def answer_all(peer: Peer) -> None:
    """Answer what a restoration asks, up to ``info``."""
    while True:
        command = await peer.receive()
        if command.t == "join":
            await peer.reply(command, room=command.room, epoch="e", seq=0)
        elif command.t in ("subscribe", "unsubscribe"):
            await peer.reply(command, data={"events": command.data["events"], "except": []})
        else:
            await peer.reply(command, data=1)
        if command.t == "info":
            return


async def test_one_command_restores_everything(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await subscribe(client, peer, "x")
        await join(client, peer, "q", seq=9)
        await join(client, peer, "r", seq=3)
        await peer.event(4)
        await take(client, 1)
        welcome(scripted, "token-2")
        await peer.drop()
        peer = await scripted.peer()
        command = await answer_resume(peer, {"q": restored(9), "r": restored(6, 2)}, ("x",))
        assert command.data == {
            "resume": "token-1",
            "positions": {"q": {"epoch": "e", "seq": 9}, "r": {"epoch": "e", "seq": 4}},
        }
        for seq in (4, 5, 6, 6, 7):
            await peer.event(seq)
        assert [event.seq for event in await take(client, 3)] == [5, 6, 7]
        assert await said_after(client, peer) == []
        assert client.rooms == ("q", "r")
        assert client.connection.resume == "token-2"


async def test_nothing_to_restore_is_not_asked_for(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        await (await scripted.peer()).drop()
        assert await said_after(client, await scripted.peer()) == []


async def test_an_unknown_token_means_room_by_room(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await subscribe(client, peer, "x")
        await join(client, peer, "r", seq=3)
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=109, message="unknown or too old")
        assert await said_after(client, peer) == ["subscribe", "join"]
        assert peer.commands[2].data["since"] == {"epoch": "e", "seq": 3}


async def test_a_reply_that_makes_no_sense_means_room_by_room(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, "r")
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer(data={"rooms": ["r"]})
        assert await said_after(client, peer) == ["join"]


async def test_what_takes_too_long_is_done_room_by_room(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, "r")
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=303, message="too long", data={"retry_after": 1.0})
        assert await said_after(client, peer) == ["join"]


async def test_not_now_means_the_same_again_later(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect(reconnect=EXACT) as client:
        peer = await scripted.peer()
        await join(client, peer, "r")
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=302, message="no broker", data={"retry_after": 3.0})
        refused = anyio.current_time()
        assert (await answer_resume(peer, {"r": restored(0)})).data["resume"] == "token-1"
        assert anyio.current_time() == refused + 3.5
        assert await said_after(client, peer) == []


async def test_more_than_the_gateway_takes_is_done_room_by_room(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    welcome(scripted, "token-1", limits={"message_bytes": 1024})
    async with scripted.connect() as client:
        peer = await scripted.peer()
        for number in range(20):
            await join(client, peer, f"a room with a long name: {number:020}")
        await peer.drop()
        assert await said_after(client, await scripted.peer()) == ["join"] * 20


async def test_rooms_that_were_not_restored_are_joined_or_given_up(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        for room in ("fine", "later", "unknown", "closed"):
            await join(client, peer, room, seq=3)
        await peer.drop()
        peer = await scripted.peer()
        await answer_resume(
            peer,
            {
                "fine": restored(3),
                "later": {"code": 302, "message": "no broker"},
                "closed": {"code": 202, "message": "no more"},
                "stray": restored(1),
            },
        )
        assert (await peer.answer(room="stray")).t == "leave"
        joins = []
        while len(joins) < 3:
            command = await peer.receive()
            joins.append(command.room)
            if command.room == "closed":
                await peer.reply(command, "error", code=202, message="no more")
            else:
                await peer.reply(command, room=command.room, epoch="e", seq=3)
        assert sorted(joins) == ["closed", "later", "unknown"]
        (lost,) = await take(client, 1)
        assert isinstance(lost, Lost) and (lost.room, lost.reason) == ("closed", "refused: 202: no more")
        assert client.rooms == ("fine", "later", "unknown")


async def test_the_losses_of_each_room_come_once(scripted: ScriptedGateway, clock: MockClock) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        for room in ("a", "b", "c"):
            await join(client, peer, room, seq=3)
        await peer.drop()
        peer = await scripted.peer()
        gone = restored(9, 1, recovered=False)
        await answer_resume(peer, {"a": gone, "b": gone, "c": {**gone, "epoch": "new"}})
        for room in ("a", "b"):
            await peer.send("lost", room=room, epoch="e", data={"from": 4, "to": 8, "reason": "history"})
            await peer.event(9, room=room, mid=room)
        await peer.event(9, room="c", mid="c", epoch="new")
        items = await take(client, 6)
        assert [(item.room, item.event) for item in items] == [
            *[("c", "lost"), ("a", "lost"), ("a", "x"), ("b", "lost"), ("b", "x"), ("c", "x")]
        ]
        assert [item.reason for item in items if isinstance(item, Lost)] == ["epoch", "history", "history"]


async def test_a_command_that_was_carried_out_unheard_counts(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    """The gateway knows of an ``unsubscribe`` whose reply was lost, and whose caller gave up."""
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, "r")
        with anyio.move_on_after(1):
            await client.unsubscribe("y")
        await peer.drop()
        peer = await scripted.peer()
        await answer_resume(peer, {"r": restored(0)}, ("*",), ("y",))
        assert await said_after(client, peer) == []
        await peer.drop()
        peer = await scripted.peer()
        await peer.answer("error", code=109, message="too old")
        assert await said_after(client, peer) == ["unsubscribe", "join"]


async def test_the_token_is_that_of_the_last_connection_that_was_whole(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    welcome(scripted, "token-1")
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await join(client, peer, "r")
        welcome(scripted, "token-2")
        await peer.drop()
        peer = await scripted.peer()
        assert (await peer.receive()).data["resume"] == "token-1"
        await peer.drop()  # before it answered
        peer = await scripted.peer()
        assert (await answer_resume(peer, {"r": restored(0)})).data["resume"] == "token-1"
        assert await said_after(client, peer) == []
        await peer.drop()
        assert (await (await scripted.peer()).receive()).data["resume"] == "token-2"
