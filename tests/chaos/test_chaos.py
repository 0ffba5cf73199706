"""Everything goes wrong at once, on real sockets; then nothing is left, and nobody missed anything unsaid."""

from __future__ import annotations

import gc
import random
import socket
import sys
from collections.abc import Callable
from typing import Final

import pytest
import trio

from gateway.app import Gateway
from gateway.auth.verified import Verified
from tests.chaos.support import ROOM, Member, chaos, dial, eventually, everybody, joined, reset, say
from tests.framing import CLOSE, TEXT, client_frame
from tests.upgrade import request_head

WINDOW: Final = 32768
"""Bytes that a stalled client takes unread; with much less, TCP itself hardly moves (RFC 9293, 3.8.6)."""


async def publish(gateway: Gateway, first: int, last: int, pad: str = "") -> None:
    for number in range(first, last + 1):
        await gateway.hub.publish("acme", ROOM, "tick", {"key": number % 5, "n": number, "pad": pad})


LEAVINGS: Final[dict[str, Callable[[], bytes]]] = {
    "at once": lambda: b"",
    "in a frame's head": lambda: say(t="ping")[:1],
    "in a length": lambda: client_frame(TEXT, b"x" * 300)[:3],
    "in a payload": lambda: say(t="publish", room=ROOM, event="tick")[:-5],
    "in a fragmented message": lambda: client_frame(TEXT, b'{"v":1,', fin=False),
    "in a long frame": lambda: client_frame(TEXT, b" " * 70_000)[:-1],
    "with commands under way": lambda: say(t="history", id=1, room=ROOM) * 50 + say(t="ping")[:4],
    "in the closing handshake": lambda: client_frame(CLOSE, b"\x03\xe8"),
    "before its greeting is read": lambda: say(t="join", id=2, room="other") + say(t="typing", room=ROOM),
}


async def test_resets_in_the_middle_of_anything() -> None:
    """Two hundred clients are reset while thirty others get every event."""
    dice = random.Random(5)
    async with chaos() as gateway:
        members = [Member(await joined(gateway, f"u{number}")) for number in range(30)]

        async def come_and_go() -> None:
            for _ in range(25):
                leaving = LEAVINGS[dice.choice(list(LEAVINGS))]()
                if dice.random() < 0.2:  # within the request head
                    stream = await dial(gateway)
                    await stream.send_all(request_head("/ws?token=x")[: dice.randrange(1, 60)])
                    await reset(stream)
                    continue
                peer = await joined(gateway, "transient", overflow=dice.choice(["replay", "drop_oldest"]))
                if leaving:
                    await peer.send(leaving)
                if dice.random() < 0.5:
                    await trio.sleep(0.001)  # sometimes the bytes are read before the reset comes
                await reset(peer.stream)  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(member.listen)
            async with trio.open_nursery() as others:
                for _ in range(8):
                    others.start_soon(come_and_go)
                others.start_soon(publish, gateway, 1, 400)
            await everybody(members, 400)
            for member in members:
                assert member.account() == {"event": 400, "lost": 0}
                await member.say(client_frame(CLOSE))


def small_buffers(gateway: Gateway) -> None:
    """Sockets that are accepted from now on take little, so that more is queued."""
    for sock in gateway.listener._sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)


@pytest.mark.parametrize("history", [4096, 20], ids=["long history", "short history"])
async def test_stalled_readers(history: int) -> None:
    """Readers of every policy stop and start again, twice; then each has everything, or a `lost`."""
    policies = ["disconnect", "drop_oldest", "conflate", "replay"] * 3
    limits = {"queue_messages": 60}
    async with chaos(limits=limits, history={"messages": history, "bytes": 2**26}) as gateway:
        small_buffers(gateway)
        members = [
            Member(await joined(gateway, f"u{number}", window=WINDOW, overflow=policy))
            for number, policy in enumerate(policies)
        ]
        quick = [Member(await joined(gateway, f"q{number}", overflow="replay")) for number in range(5)]
        sent = 0
        async with trio.open_nursery() as nursery:
            for member in (*members, *quick):
                nursery.start_soon(member.listen)
            for stalled in (members[:6], members[6:], members[2:10]):
                for member in stalled:
                    member.awake = trio.Event()
                await publish(gateway, sent + 1, sent + 400, "x" * 500)
                sent += 400
                await everybody(quick, sent)
                for member in stalled:
                    member.awake.set()
                await everybody(members, sent)
            for policy, member in zip(policies, members, strict=True):
                found = member.account()
                if policy == "disconnect":
                    assert member.code == 4001
                else:
                    assert member.code is None and found.total() == sent
                    assert found["lost"] or (policy == "replay" and history > sent)
            assert all(member.account() == {"event": sent, "lost": 0} for member in quick)
            # Who was disconnected comes back for what it missed, as far as history has it.
            for member in members[::4]:
                epoch = member.messages[-1]["epoch"]
                since = {"epoch": epoch, "seq": member.position}
                missed = sent - member.position
                again = Member(await joined(gateway, "again", overflow="replay", since=since))
                nursery.start_soon(again.listen)
                await everybody([again], sent)
                assert again.account(member.position + 1).total() == missed
                assert (again.account(member.position + 1)["lost"] == 0) == (missed <= history)
                await again.say(client_frame(CLOSE))
            for member in (*members, *quick):
                if member.code is None:
                    await member.say(client_frame(CLOSE))


async def test_a_thousand_vanish_at_once() -> None:
    """By reset and by end, some in the middle of a frame, while they are sent to; memory does not grow."""
    count = 1000
    async with chaos() as gateway:
        survivor = Member(await joined(gateway, "survivor"))
        blocks = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(survivor.listen)
            for number in (0, 1):
                await vanish(gateway, count, number * 20)
                await everybody([survivor], (number + 1) * 20)
                # Kept a while, within bounds: what resume tokens stand for, and tokens that were verified.
                gateway.broker._notes.clear()
                gateway.auth._verified = Verified()
                gc.collect()
                blocks.append(sys.getallocatedblocks())
            assert survivor.account() == {"event": 40, "lost": 0}
            # A connection takes dozens of blocks. (Trio drops the deadlines of what has ended by and by.)
            assert blocks[1] - blocks[0] < 5 * count
            await survivor.say(client_frame(CLOSE))


async def vanish(gateway: Gateway, count: int, sent: int) -> None:
    streams: list[trio.SocketStream] = []

    async def come(some: int) -> None:
        for number in range(some):
            peer = await joined(gateway, f"u{number}")
            assert isinstance(peer.stream, trio.SocketStream)
            streams.append(peer.stream)
            await peer.send(
                say(t="join", room=f"room {number}"),
                say(t="typing", room=ROOM),
                say(t="subscribe", data={"events": [f"e{number}", "*"]}),
            )
            if number % 3 == 0:
                await peer.send(say(t="publish", room="elsewhere", event="e")[:-2])

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(come, count // 10)
    assert len(gateway.hub.connections) == count + 1
    await publish(gateway, sent + 1, sent + 20, "x" * 1000)
    for number, stream in enumerate(streams):
        if number % 2:
            await reset(stream)
        else:
            stream.socket.close()
    await eventually(lambda: gateway.listener.open == 1, "the end of a thousand connections")
    assert len(gateway.hub.connections) == len(gateway.sessions) == 1
    (room,) = gateway.hub.organisations["acme"].rooms
    assert room == ROOM


@pytest.mark.parametrize("pace", [0.0, 100.0], ids=["all at once", "one after the other"])
async def test_publishing_through_a_shutdown(pace: float) -> None:
    """Who leaves has everything up to then; so everybody has what came before the shutdown began."""
    async with chaos(drain={"pace": pace}) as gateway:
        members = [Member(await joined(gateway, f"u{number}")) for number in range(40)]
        small_buffers(gateway)
        sleepers = [Member(await joined(gateway, f"s{number}", window=WINDOW)) for number in range(5)]
        for sleeper in sleepers:
            sleeper.awake = trio.Event()
        publishers = [Member(await joined(gateway, f"p{number}", room="elsewhere")) for number in range(3)]
        stalled = await dial(gateway)  # and one that is half-way through its upgrade
        await stalled.send_all(b"GET /ws")

        async def push(publisher: Member) -> None:
            number = 1
            try:
                while publisher.code is None:
                    number += 1
                    await publisher.say(say(t="publish", id=number, room=ROOM, event="tick", data=number))
                    await trio.lowlevel.checkpoint()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            for member in (*members, *sleepers, *publishers):
                nursery.start_soon(member.listen)
            for publisher in publishers:
                nursery.start_soon(push, publisher)
            await eventually(lambda: all(member.position > 1200 for member in members))
            placed = gateway.hub.organisations["acme"].rooms[ROOM].seq
            gateway.stop()
            for sleeper in sleepers:  # what is queued for them goes out before the Close
                sleeper.awake.set()
        members += sleepers
        await stalled.aclose()
        with trio.fail_after(60):
            await gateway.finished.wait()
        assert {member.code for member in (*members, *publishers)} == {1012}
        for member in members:
            assert member.account()["lost"] == 0
        assert all(member.position >= placed for member in members)
        for publisher in publishers:
            numbers = sorted(publisher.replies)
            assert numbers == list(range(2, len(numbers) + 2)), "one after the other, until it left"
        last = max(reply.get("seq", 0) for publisher in publishers for reply in publisher.replies.values())
        assert last >= placed
