"""Bodies that nobody vouches for, and connections of one address, of every kind."""

from __future__ import annotations

import contextlib

import trio

from tests.support import connected, running_gateway
from tests.wire.http_peer import http_peer

BODY = 2**20 - 100


def head(size: int, token: str) -> bytes:
    return (
        f"POST /api/v1/broadcast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


async def test_who_has_no_token_is_answered_before_the_body_is_read() -> None:
    async with running_gateway() as gateway, http_peer(gateway.port) as peer:
        answer = await peer.ask(head(BODY, "none") + b"x")
        assert (answer.status, answer.headers["connection"]) == (401, "close")


async def test_a_small_body_that_was_not_read_does_not_hold_up_the_connection() -> None:
    async with running_gateway() as gateway, http_peer(gateway.port) as peer:
        for _ in range(3):
            assert (await peer.ask(head(10, "none") + b"x" * 10)).status == 401
            assert (await peer.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200


async def test_connections_of_one_address_are_counted_whatever_they_speak() -> None:
    async with (
        running_gateway(limits={"connections_per_ip": 3}) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        await stack.enter_async_context(connected(gateway))
        await stack.enter_async_context(http_peer(gateway.port))  # silent
        peer = await stack.enter_async_context(http_peer(gateway.port))
        assert (await peer.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
        async with http_peer(gateway.port) as refused:
            answer = await refused.answer()
            assert answer is not None
            assert (answer.status, answer.json()["code"]) == (503, 402)
    async with running_gateway(limits={"connections_per_ip": 1}) as gateway:
        for _ in range(3):  # who has gone is not counted
            async with connected(gateway):
                pass
            with trio.fail_after(60):
                while gateway.listener.open:  # noqa: ASYNC110 - the gateway notices a moment later
                    await trio.sleep(0.01)
