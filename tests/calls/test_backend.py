"""Calls that a backend answers over HTTP: a real server, which answers as badly as a backend can."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from standardwebhooks.webhooks import Webhook

from gateway.calls.backend import Backend, CallerInfo, Request
from gateway.calls.breaker import State
from gateway.config.settings import CallSettings
from protocol.errors import ErrorCode, ProtocolError
from tests.support import until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ALICE = CallerInfo("acme", "alice", "n1-1", ["member"])


def answer(status: int, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Server:
    """Answers each request with what ``say`` gives; None says nothing."""

    say: Callable[[int], bytes | None]
    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    gone: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                while b"\r\n\r\n" not in data:
                    chunk = await stream.receive_some()
                    if not chunk:
                        return
                    data += chunk
                head, _, data = data.partition(b"\r\n\r\n")
                lines = [line.decode() for line in head.split(b"\r\n")[1:]]
                headers = {
                    name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
                }
                while len(data) < int(headers["content-length"]):
                    data += await stream.receive_some()
                body, data = data[: int(headers["content-length"])], data[int(headers["content-length"]) :]
                self.requests.append((headers, body))
                said = self.say(len(self.requests))
                if said is None:
                    await stream.receive_some()
                    self.gone += 1
                    return
                await stream.send_all(said)
                if b"content-length: 999" in said:
                    return


@contextlib.asynccontextmanager
async def backend(
    say: Callable[[int], bytes | None], **changes: Any
) -> AsyncIterator[tuple[Server, Backend]]:
    server = Server(say)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            functools.partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        )
        server.port = listeners[0].socket.getsockname()[1]
        options: dict[str, Any] = {"private": True, "secret": SECRET, **changes}
        settings = CallSettings(url=f"http://127.0.0.1:{server.port}/calls", **options)
        made = Backend("pause_*", settings)
        try:
            yield server, made
        finally:
            await made.aclose()
            nursery.cancel_scope.cancel()


def request(data: Any = None, caller: CallerInfo = ALICE) -> Request:
    return Request("pause_councilor", "msg_1", data, caller)


async def refused(made: Backend, *, caller: CallerInfo = ALICE) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        await made.invoke(request(caller=caller))
    return caught.value


async def test_the_backend_gets_a_signed_request_and_its_answer_is_the_reply() -> None:
    async with backend(lambda _: answer(200, b'{"paused": true}')) as (server, made):
        assert await made.invoke(request({"councilor": "cicero"})) == {"paused": True}
    headers, body = server.requests[0]
    assert json.loads(body) == {
        "call": "pause_councilor",
        "id": "msg_1",
        "data": {"councilor": "cicero"},
        "caller": {"org": "acme", "user": "alice", "connection": "n1-1", "roles": ["member"]},
    }
    Webhook(SECRET).verify(body, headers)
    assert headers["webhook-id"] == "msg_1"
    assert made.answered == {"ok": 1}


async def test_a_connection_is_used_again() -> None:
    async with backend(lambda _: answer(204)) as (server, made):
        for _ in range(3):
            assert await made.invoke(request()) is None
    assert len(server.requests) == 3


async def test_a_refusal_reaches_the_caller_in_a_bounded_form() -> None:
    detail = json.dumps({"detail": "is paused already\u0000" + "x" * 5000}).encode()
    async with backend(lambda n: answer(409, detail if n == 1 else b"<html>")) as (_, made):
        error = await refused(made)
        assert error.code is ErrorCode.CALL_REJECTED
        assert error.message.startswith("is paused alreadyx") and len(error.message) < 200
        assert (await refused(made)).message == "the backend refused with HTTP 409"
        assert made.state is State.CLOSED


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>", "text/html"),
        answer(200, b'{"n": NaN}'),
        answer(200, b"[" * 500 + b"]" * 500),
        answer(302, b"") + b"",
        answer(500, b"{}"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nhalf",
        b"nonsense\r\n\r\n",
        answer(200, b'"' + b"x" * 5000 + b'"'),
    ],
    ids=["html", "not JSON", "deep", "redirect", "500", "half a body", "no HTTP", "too large"],
)
async def test_anything_else_is_a_failure_without_details(said: bytes) -> None:
    async with backend(lambda _: said, answer_bytes=4096) as (server, made):
        error = await refused(made)
        assert (error.code, error.message) == (ErrorCode.INTERNAL, "the call backend failed")
        assert made.answered == {"failed": 1} and made.active == 0
    assert len(server.requests) == 1


async def test_silence_ends_with_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    made = Backend("x", CallSettings(url="http://127.0.0.1:9/", private=True, timeout=3.0))

    async def silent(id: str, body: bytes) -> tuple[int, bytes]:
        await trio.sleep_forever()
        raise AssertionError

    made._post = silent  # type: ignore[method-assign]
    begun = trio.current_time()
    assert (await refused(made)).code is ErrorCode.TIMEOUT
    assert trio.current_time() - begun == 3.0
    assert made.active == 0


async def test_a_caller_who_leaves_cancels_the_request() -> None:
    async with backend(lambda _: None) as (server, made):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.invoke, request())
            await until(lambda: server.requests)
            nursery.cancel_scope.cancel()
        await until(lambda: server.gone == 1)
        assert made.active == 0 and made.state is State.CLOSED


async def test_one_organisation_cannot_take_all_places() -> None:
    bob = CallerInfo("other", "bob", None, [])
    async with backend(lambda _: None, concurrency=3, per_organisation=2) as (server, made):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(made.invoke, request())
            await until(lambda: len(server.requests) == 2)
            error = await refused(made)
            assert error.code is ErrorCode.OVERLOADED and error.retry_after
            nursery.start_soon(made.invoke, request(caller=bob))
            await until(lambda: len(server.requests) == 3)
            assert (await refused(made, caller=bob)).code is ErrorCode.OVERLOADED
            nursery.cancel_scope.cancel()
        assert made.answered["busy"] == 2


async def test_the_breaker_opens_and_closes_again() -> None:
    now = 0.0
    healthy = False
    async with backend(
        lambda _: answer(200 if healthy else 503, b"1"), breaker_failures=2, breaker_pause=10.0
    ) as (server, made):
        made.breaker._clock = lambda: now
        for _ in range(2):
            assert (await refused(made)).code is ErrorCode.INTERNAL
        assert made.state is State.OPEN
        error = await refused(made)
        assert (error.code, error.retry_after) == (ErrorCode.OVERLOADED, 10.0)
        assert len(server.requests) == 2
        now = 10.0
        assert (await refused(made)).code is ErrorCode.INTERNAL
        assert made.state is State.OPEN
        now, healthy = 20.0, True
        assert await made.invoke(request()) == 1
        assert made.state is State.CLOSED


async def test_only_an_idempotent_backend_is_asked_again() -> None:
    async with backend(lambda n: answer(503) if n < 3 else answer(200, b"1"), idempotent=True) as (
        server,
        made,
    ):
        assert await made.invoke(request()) == 1
    assert len(server.requests) == 3
    assert {headers["webhook-id"] for headers, _ in server.requests} == {"msg_1"}


async def test_a_private_address_is_not_reached_unless_allowed() -> None:
    async with backend(lambda _: answer(200, b"1"), private=False) as (server, made):
        assert (await refused(made)).code is ErrorCode.INTERNAL
    assert server.requests == []
