"""The buffer between the socket and the iteration is bounded, and pushes back."""

from __future__ import annotations

import anyio
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.client import CommandTimeout
from tests.client.loops import on_trio, settle
from tests.client.scripted import ScriptedGateway, take


@on_trio
async def test_nothing_is_read_while_the_buffer_is_full(scripted: ScriptedGateway) -> None:
    """The stream holds nothing itself: what was sent was read."""
    scripted.pair = trio.testing.lockstep_stream_pair
    async with scripted.connect(buffer=4) as client, anyio.create_task_group() as nursery:
        peer = await scripted.peer()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for seq in range(1, 101):
                await peer.event(seq)
                sent = seq

        nursery.start_soon(flood)
        await settle()
        # Four in the buffer, one in the reader's hand, one in trio-websocket's queue, one in its hand.
        assert 4 <= sent <= 8
        before = sent
        await take(client, 1)
        await settle()
        assert sent == before + 1
        assert [event.seq for event in await take(client, 99)] == list(range(2, 101))


async def test_replies_wait_behind_events_that_nobody_takes(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(buffer=1, command_timeout=5.0) as client:
        peer = await scripted.peer()
        for seq in (1, 2):
            await peer.event(seq)
        await settle()
        with pytest.raises(CommandTimeout, match="nothing is read while the events"):
            await client.info()
        await take(client, 2)


async def test_several_tasks_share_the_events(scripted: ScriptedGateway) -> None:
    got: list[int | None] = []
    async with scripted.connect() as client:
        peer = await scripted.peer()

        async def consume() -> None:
            for event in await take(client, 5):
                got.append(event.seq)

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(consume)
            nursery.start_soon(consume)
            for seq in range(1, 11):
                await peer.event(seq)
    assert sorted(seq for seq in got if seq) == list(range(1, 11))
