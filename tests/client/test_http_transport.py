"""Requests in place of a connection: what the public interface cannot be made to show at will."""

from __future__ import annotations

import json

import httpx
import pytest
import trio
import trio.testing

from gateway.client.course import TransportKind
from gateway.client.http_transport import HttpDoor, HttpTransport
from gateway.client.rooms import Rooms
from gateway.client.transport import parse_url

CONNECTED = {"v": 1, "t": "connected", "ts": 1, "data": {"connection": "n-1", "org": "acme"}}


class Answering(httpx.AsyncBaseTransport):
    """Answers each request when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.messages: list[object] = [CONNECTED]
        self.go = trio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        await self.go.wait()
        if request.method == "POST":
            return httpx.Response(200, json={"messages": []})
        content = json.dumps({"messages": self.messages, "cursor": "c"}).encode()
        self.messages, self.go = [], trio.Event()
        return httpx.Response(200, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("command", [False, True])
async def test_an_answer_that_comes_at_the_moment_of_the_end_is_no_error(command: bool) -> None:
    answering = Answering()
    door = HttpDoor(parse_url("ws://127.0.0.1/ws"), None, answering)
    transport = HttpTransport(
        TransportKind.POLL, door, {}, Rooms(window=0), timeout=30, max_message_bytes=2**20
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport._run)
        await trio.testing.wait_all_tasks_blocked()
        answering.go.set()
        assert json.loads(await transport.receive())["t"] == "connected"
        await trio.testing.wait_all_tasks_blocked()
        if command:
            for number in (1, 2):
                await transport.send(b'{"v":1,"t":"ping","id":%d}' % number)
                await trio.testing.wait_all_tasks_blocked()
        asked = len(answering.asked)
        answering.go.set()
        await transport.aclose(1000, 5)
    assert len(answering.asked) == asked, "nothing is asked for after the end"


async def test_an_answer_reaches_the_client_though_its_request_is_replaced_by_another() -> None:
    """The client takes nothing meanwhile, so the last message waits for room when its request is given up."""
    answering = Answering()
    door = HttpDoor(parse_url("ws://127.0.0.1/ws"), None, answering)
    transport = HttpTransport(
        TransportKind.POLL, door, {}, Rooms(window=0), timeout=30, max_message_bytes=2**20
    )

    async def asked(number: int) -> None:
        while len(answering.asked) < number:
            await trio.testing.wait_all_tasks_blocked(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport._run)
        await asked(1)
        answering.go.set()
        assert json.loads(await transport.receive())["t"] == "connected"
        await transport.send(b'{"v":1,"t":"join","id":7,"data":{"user":{"since":{"epoch":"a","seq":0}}}}')
        await asked(3)
        events = [{"v": 1, "t": "event", "event": "e", "to": "connection", "data": n} for n in range(16)]
        answering.messages = [
            *events,
            {"v": 1, "t": "reply", "id": 0, "data": {"user": {"epoch": "a", "seq": 0}}},
        ]
        answering.go.set()
        await trio.testing.wait_all_tasks_blocked()
        await transport.send(b'{"v":1,"t":"join","id":8,"room":"r"}')
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(60):
            received = [json.loads(await transport.receive()) for _ in range(17)]
        assert [each["t"] for each in received] == ["event"] * 16 + ["reply"]
        assert received[-1]["id"] == 7
        answering.go.set()
        await transport.aclose(1000, 5)
