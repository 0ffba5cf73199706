"""Behind nginx and HAProxy, as docs/deploy configures them: all three transports get through, and last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, get_args

import h11
import httpx
import pytest
import trio
from websockets.trio.client import connect as connect_socket

from gateway.app import Gateway
from gateway.client import Backoff, Lost, connect
from tests.cluster.together import Client, together
from tests.redis_server import RedisServer
from tests.streams.balancers import Balancer, Kind, balanced
from tests.streams.support import Caller, Events
from tests.support import until

PATIENCE = 30.0
KINDS = get_args(Kind)


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[list[Gateway]]:
    async with together(shared_redis, "n1", "n2", trusted_proxies=["127.0.0.1"]) as nodes:
        yield nodes


def waiting(nodes: list[Gateway], transport: str) -> int:
    """Connections of that transport which are in the room."""
    found = [each for node in nodes for each in node.hub.connections.values() if each.memberships]
    return sum(each.transport == transport for each in found)


class Body:
    """The body of an answer in chunks, as balancers send a stream; what comes is given out at once."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.headers: dict[bytes, bytes] = {}
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, target: str, headers: Iterable[tuple[str, str]]) -> None:
        request = h11.Request(method="GET", target=target, headers=[("Host", "localhost"), *headers])
        for event in (request, h11.EndOfMessage()):
            await self._stream.send_all(self._http.send(event) or b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some(max_bytes))
            elif isinstance(event, h11.Response):
                self.headers = dict(event.headers)
            else:
                return bytes(event.data) if isinstance(event, h11.Data) else b""


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_held_back(kind: Kind, nodes: list[Gateway], tmp_path: Path) -> None:
    async with balanced(kind, tmp_path, (nodes[0].port, nodes[1].port)) as balancer:
        caller = Caller(nodes[0], port=balancer.port)
        async with await trio.open_tcp_stream("127.0.0.1", balancer.port) as stream:
            body = Body(stream)
            await body.ask("/api/v1/stream?join=r", caller.headers.items())
            events = Events(body)
            assert [(await events.next())["t"] for _ in range(2)] == ["connected", "reply"]
            assert body.headers[b"content-type"].startswith(b"text/event-stream")
            assert b"content-encoding" not in body.headers
            for number in range(3):  # each is here before the next one exists
                await nodes[number % 2].publish("acme", "r", "e", number)
                assert (await events.next())["data"] == number
            (reply,) = await caller.ask(
                {"v": 1, "t": "publish", "id": 1, "room": "r", "event": "e", "data": 3}
            )
            assert reply["seq"] == 4
            assert (await events.next())["data"] == 3
            _, cursor = await caller.poll(join="r", timeout=0)
            polled: list[Any] = []

            async def poll() -> None:
                messages, _ = await caller.poll(join="r", cursor=cursor, timeout=25)
                polled.extend(each["data"] for each in messages)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await until(lambda: waiting(nodes, "poll") == 1)
                await nodes[0].publish("acme", "r", "e", 4)
            assert polled == [4]
        url = f"ws://127.0.0.1:{balancer.port}/ws?token={caller.token}"
        async with connect_socket(url, subprotocols=["trireme.v1.json"]) as socket:
            client = Client(socket)
            assert (await client.next())["t"] == "connected"
            assert (await client.ask("join", room="r"))["seq"] == 5
            assert (await client.ask("info"))["data"]["transport"] == "websocket"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{balancer.port}/metrics")).status_code == 404


class Follower:
    """One client on one transport, and the numbers that it heard."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.heard: list[int] = []

    async def run(
        self, balancer: Balancer, token: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with connect(
            f"ws://127.0.0.1:{balancer.port}/ws",
            token=token,
            transports=[self.transport],  # type: ignore[list-item]
            reconnect=Backoff(base=0.1, maximum=0.5, tries=1000),
        ) as client:
            await client.join("r")
            task_status.started()
            async for event in client:
                assert not isinstance(event, Lost), event
                self.heard.append(event.data)


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_lost_over_a_reload_and_a_restart(
    kind: Kind, nodes: list[Gateway], tmp_path: Path
) -> None:
    followers = [Follower(transport) for transport in ("websocket", "sse", "poll")]
    published = 0

    async def publish(count: int, *, heard: bool = True) -> None:
        nonlocal published
        for _ in range(count):
            await nodes[published % 2].publish("acme", "r", "e", published)
            published += 1
        if heard:
            await until(lambda: all(len(each.heard) >= published for each in followers))

    async with (
        balanced(kind, tmp_path, (nodes[0].port, nodes[1].port)) as balancer,
        trio.open_nursery() as nursery,
    ):
        for follower in followers:
            token = nodes[0].auth.issue(org="acme", user=follower.transport).token
            await nursery.start(follower.run, balancer, token)
        await publish(10)
        await balancer.reload()
        await publish(10)  # to those of the old process, and by the new one
        await balancer.stop()
        await publish(10, heard=False)
        await balancer.start()
        await publish(10)
        nursery.cancel_scope.cancel()
    for follower in followers:
        assert follower.heard == list(range(published)), follower.transport
