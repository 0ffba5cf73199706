"""When a connection has ended, for whatever reason, nothing of it remains."""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from gateway.app import Gateway
from gateway.hub.connection import Connection
from gateway.session.session import Session
from gateway.wire.connection import WireConnection
from gateway.wire.outbox import Outbox
from tests.framing import client_frame
from tests.support import held, running_gateway, until

PLACES = 50
"""Connections that end in each of the ten ways."""
PARTS = (Session, Connection, WireConnection, Outbox)
"""What a connection is made of."""


def count_tasks(task: trio.lowlevel.Task | None = None) -> int:
    """Tasks below ``task``, in all its nurseries."""
    task = task or trio.lowlevel.current_root_task()
    assert task is not None
    return sum(1 + count_tasks(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


def count_sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found


class Client:
    """A client that does exactly what it is told, on a bare socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    @classmethod
    async def connect(cls, gateway: Gateway, token: str) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        head = (
            f"GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await stream.send_all(head.encode())
        client = cls(stream)
        await client.read_until(b'"connected"')
        await client.say('{"v":1,"t":"join","id":1,"room":"lobby"}')
        await client.read_until(b'"reply"')
        return client

    async def say(self, text: str) -> None:
        await self.stream.send_all(client_frame(1, text.encode()))

    async def read_until(self, what: bytes) -> None:
        seen = b""
        while what not in seen:
            chunk = await self.stream.receive_some(4096)
            assert chunk, seen
            seen += chunk

    async def read_to_the_end(self) -> None:
        try:
            while await self.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass

    async def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.stream.aclose()


async def polite_close(client: Client, _: Gateway) -> None:
    await client.stream.send_all(client_frame(8, b"\x03\xe8bye"))


async def reset(client: Client, _: Gateway) -> None:
    await client.reset()


async def gone_without_a_word(client: Client, _: Gateway) -> None:
    await client.stream.aclose()


async def heartbeat_missed(client: Client, _: Gateway) -> None:
    """Does nothing, which is enough: pings are not answered."""


async def disconnected(client: Client, gateway: Gateway) -> None:
    name = await own_name(client)
    gateway.hub.disconnect("acme", name)


async def too_slow(client: Client, gateway: Gateway) -> None:
    name = await own_name(client)
    outbox = gateway.hub.connections[name].outbox
    for _ in range(1000):  # until neither the kernel nor the queue takes more
        if not outbox.put(b"\x82\x7e\xff\xff" + bytes(65535)):
            break


async def protocol_error(client: Client, _: Gateway) -> None:
    await client.stream.send_all(b"\x83\x80\0\0\0\0")


async def oversize(client: Client, _: Gateway) -> None:
    await client.stream.send_all(client_frame(1, b"x" * 5000))


async def cut_in_a_fragment(client: Client, _: Gateway) -> None:
    await client.stream.send_all(client_frame(1, b"half", fin=False))
    await client.stream.send_all(b"\x80\xff\0\0")
    await client.stream.send_eof()


async def bad_message(client: Client, _: Gateway) -> None:
    await client.stream.send_all(client_frame(1, b"{"))


async def own_name(client: Client) -> str:
    await client.say('{"v":1,"t":"info","id":2}')
    seen = b""
    while b'"connection":"' not in seen or b'"expires"' not in seen:
        seen += await client.stream.receive_some(65536)
    return seen.partition(b'"connection":"')[2].partition(b'"')[0].decode()


WAYS: tuple[Callable[[Client, Gateway], Awaitable[None]], ...] = (
    polite_close,
    reset,
    gone_without_a_word,
    heartbeat_missed,
    disconnected,
    too_slow,
    protocol_error,
    oversize,
    cut_in_a_fragment,
    bad_message,
)


async def test_nothing_remains_of_hundreds_of_connections_that_ended_in_ten_ways() -> None:
    changes = {
        "limits": {"message_bytes": 4096, "queue_bytes": 65536 * 4},
        "connection": {"heartbeat": 3.0, "close_timeout": 0.5},
    }
    with trio.fail_after(200):
        async with running_gateway(**changes) as gateway:
            token = gateway.auth.issue(org="acme", user="alice").token

            few = trio.CapacityLimiter(25)

            async def one(way: Callable[[Client, Gateway], Awaitable[None]]) -> None:
                # A few at a time: on a busy machine the others would miss heartbeats that they should answer.
                async with few:
                    client = await Client.connect(gateway, token)
                    await way(client, gateway)
                if way is not reset and way is not gone_without_a_word:
                    await client.read_to_the_end()
                    await client.stream.aclose()

            async def rounds(places: int) -> None:
                async with trio.open_nursery() as nursery:
                    for way in WAYS:
                        for _ in range(places):
                            nursery.start_soon(one, way)
                await until(lambda: gateway.listener.open == 0, "the end of all connections")

            await rounds(1)  # whatever is made once is made now
            gc.collect()
            hub = gateway.hub
            tasks, sockets = count_tasks(), count_sockets()
            gc.disable()
            try:
                await rounds(PLACES)
                left = Counter(
                    type(each).__name__ for each in gc.get_objects() if issubclass(type(each), PARTS)
                )
            finally:
                gc.enable()
            assert not left, "what is in no cycle needs no collector"
            gc.collect()
            assert (count_tasks(), count_sockets()) == (tasks, sockets)
            assert held(gateway) == {}
            assert hub.counters.connects == hub.counters.disconnects == len(WAYS) * (PLACES + 1)
            ended = {code: count // (PLACES + 1) for code, count in hub.counters.closes.items()}
            assert ended == {1000: 1, 1006: 3, 4000: 1, 4500: 1, 4001: 1, 1002: 1, 1009: 1, 1007: 1}, ended
