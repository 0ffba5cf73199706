"""The order of rooms: no hole, no duplicate, the same for everyone, also while others join."""

from __future__ import annotations

import asyncio
import json

import cbor2
import pytest
import trio
import websockets

from gateway.app import Gateway
from protocol.cbor import CBOR
from protocol.json import JSON
from tests.support import connected, running_gateway, url


@pytest.mark.parametrize("codec", [JSON, CBOR])
async def test_many_publishers_one_order(gateway: Gateway, codec: object) -> None:
    """Ten publishers at once, ten subscribers of either codec: all see 1 to 500 in the same order."""
    seen: list[list[tuple[int, object]]] = []

    async def publisher(number: int) -> None:
        async with connected(gateway, user=f"p{number}", codec=codec) as client:
            for n in range(50):
                reply = await client.ask("publish", room="r", event="said", data=[number, n])
                places[number, n] = reply.seq or 0

    async def subscriber(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with connected(gateway, user=f"s{number}", codec=(JSON, CBOR)[number % 2]) as client:
            await client.ask("join", room="r")
            task_status.started()
            events = [await client.event() for _ in range(500)]
            assert [event.seq for event in events] == list(range(1, 501))
            assert len({event.epoch for event in events}) == 1
            seen.append([(event.seq or 0, tuple(event.data)) for event in events])

    places: dict[tuple[int, int], int] = {}
    async with trio.open_nursery() as readers:
        for number in range(10):
            await readers.start(subscriber, number)
        async with trio.open_nursery() as writers:
            for number in range(10):
                writers.start_soon(publisher, number)
    assert all(one == seen[0] for one in seen)
    assert {data: seq for seq, data in seen[0]} == places


async def test_joining_with_since_while_others_publish_misses_nothing() -> None:
    """Clients that come and go during a flood have every event after the one they named, once."""
    async with running_gateway(history={"messages": 5000, "bytes": 2**24}) as gateway:
        await come_and_go(gateway, 2000)


async def come_and_go(gateway: Gateway, total: int) -> None:

    async def publish() -> None:
        for n in range(1, total + 1):
            await gateway.hub.publish("acme", "r", "tick", n)
            if n % 10 == 0:
                await trio.lowlevel.checkpoint()

    async def visitor() -> None:
        last, epoch = 0, (await gateway.hub.history("acme", "r", limit=1)).epoch
        while last < total:
            async with connected(gateway) as client:
                since = {"epoch": epoch, "seq": last}
                joined = await client.ask("join", room="r", data={"since": since})
                assert joined.data["recovered"] is True
                events = client.events
                for _ in range(300):
                    if last == total:
                        break
                    event = events.pop(0) if events else await client.receive()
                    assert event.seq == last + 1
                    last += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(visitor)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(publish)


async def test_a_hundred_foreign_clients_check_every_number(gateway: Gateway) -> None:
    """The library websockets in both subprotocols: 100 clients at once, 100 events from several of them."""
    token = gateway.auth.issue(org="acme", user="alice").token
    address = url(gateway, token)

    async def client(number: int, joined: asyncio.Barrier) -> list[int]:
        binary = number % 2 == 0
        subprotocol = websockets.Subprotocol("trireme.v1.cbor" if binary else "trireme.v1.json")
        async with websockets.connect(address, subprotocols=[subprotocol], compression=None) as socket:
            assert socket.subprotocol == subprotocol

            async def receive() -> dict[object, object]:
                message = await socket.recv()
                assert isinstance(message, bytes) is binary
                return cbor2.loads(message) if isinstance(message, bytes) else json.loads(message)

            await receive()
            join = {0: 1, 1: 3, 2: 1, 3: "r"} if binary else {"v": 1, "t": "join", "id": 1, "room": "r"}
            await socket.send(cbor2.dumps(join) if binary else json.dumps(join))
            await receive()
            await joined.wait()
            if number < 10:
                for n in range(10):
                    publish = (
                        {0: 1, 1: 7, 3: "r", 4: "said", 5: n}
                        if binary
                        else {"v": 1, "t": "publish", "room": "r", "event": "said", "data": n}
                    )
                    await socket.send(cbor2.dumps(publish) if binary else json.dumps(publish))
            events = [await receive() for _ in range(100)]
            return [int(str(event[6 if binary else "seq"])) for event in events]

    async def everyone() -> list[list[int]]:
        joined = asyncio.Barrier(100)
        return await asyncio.gather(*(client(number, joined) for number in range(100)))

    with trio.fail_after(60):
        numbers = await trio.to_thread.run_sync(lambda: asyncio.run(everyone()), abandon_on_cancel=True)
    assert numbers == [list(range(1, 101))] * 100
