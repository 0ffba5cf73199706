"""A gateway that is silent is asked, and left when it does not answer."""

from __future__ import annotations

import anyio
import pytest
from trio.testing import MockClock

from gateway.client import ConnectionClosed
from tests.client.loops import on_trio
from tests.client.scripted import ScriptedGateway, stuck_pair, take


async def test_silence_is_asked_and_then_left(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(reconnect=False, heartbeat=25.0, heartbeat_timeout=10.0) as client:
        peer = await scripted.peer()
        assert (await peer.receive()).t == "ping"
        assert anyio.current_time() == 25
        with pytest.raises(ConnectionClosed, match="does not answer"):
            await anext(client)
    assert anyio.current_time() == 25 + 10


async def test_an_answer_keeps_the_connection(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(heartbeat=25.0, heartbeat_timeout=10.0) as client:
        peer = await scripted.peer()
        for _ in range(5):
            await peer.answer("pong", ts=1)
        assert client.state == "connected"
    # Each ping is 25 s after the answer before it was noticed, which is when the wait for it is over.
    assert anyio.current_time() == 5 * 25
    assert len(scripted.dials) == 1


@pytest.mark.parametrize("what", ["event", "ping"])
async def test_whatever_comes_in_is_a_sign_of_life(
    scripted: ScriptedGateway, clock: MockClock, what: str
) -> None:
    async with scripted.connect(heartbeat=25.0) as client:
        peer = await scripted.peer()
        for _ in range(20):
            await anyio.sleep(20)
            if what == "event":
                await peer.event()
                await take(client, 1)
            else:
                await peer.stream.send_all(b"\x89\x00")  # trio-websocket answers, and tells nobody
        with anyio.move_on_after(1) as scope:
            await peer.receive()
        assert scope.cancelled_caught, "no ping was needed"
        assert client.state == "connected"


@on_trio
async def test_a_peer_that_takes_nothing_is_left(scripted: ScriptedGateway, clock: MockClock) -> None:
    """The writer is in the middle of a frame: a closing handshake would be garbage, and wait for nothing."""
    stuck, pair = stuck_pair()
    scripted.pair = lambda: pair
    async with scripted.connect(
        reconnect=False, heartbeat=25.0, heartbeat_timeout=10.0, command_timeout=100.0
    ) as client:
        peer = await scripted.peer()
        stuck.stuck = True
        with pytest.raises(ConnectionClosed, match="does not answer"):
            await client.publish("r", "x", "a" * 1000)
        assert await peer.closed_with() == 1006
    assert anyio.current_time() == 25 + 10


async def test_events_that_nobody_takes_are_not_the_gateways_silence(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(buffer=0, heartbeat=25.0, heartbeat_timeout=10.0) as client:
        peer = await scripted.peer()
        for seq in (1, 2):
            await peer.event(seq)
        await anyio.sleep(1010)
        assert client.state == "connected"
        assert [event.seq for event in await take(client, 2)] == [1, 2]
        resumed = anyio.current_time()
        assert (await peer.receive()).t == "ping"
        assert anyio.current_time() == resumed + 25
