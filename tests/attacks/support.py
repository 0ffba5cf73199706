"""Hostile peers on bare sockets, and a well-behaved one that must not notice them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.json import JSON
from tests.secure import secured
from tests.support import DEADLINE, connected, until
from tests.upgrade import request_head
from tests.wire.support import Peer, read_head

__all__ = ["attacker", "bystander", "dial", "forgotten", "http_head", "read_to_end", "status_of"]


async def dial(gateway: Gateway) -> trio.SocketStream:
    """A connection on which nothing was said yet."""
    with trio.fail_after(DEADLINE):
        return await trio.open_tcp_stream("127.0.0.1", gateway.port)


@contextlib.asynccontextmanager
async def attacker(
    gateway: Gateway, *, org: str = "evil", user: str = "mallory", codec: Codec = JSON
) -> AsyncIterator[Peer]:
    """An upgraded connection whose greeting is unread; it disappears at the end of the block."""
    token = gateway.auth.issue(org=org, user=user).token
    stream = await secured(await dial(gateway))
    try:
        with trio.fail_after(DEADLINE):
            await stream.send_all(request_head(f"/ws?token={token}", subprotocols=[codec.subprotocol]))
        head, rest = await read_head(stream)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Peer(stream, rest)
    finally:
        await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def bystander(gateway: Gateway) -> AsyncIterator[None]:
    """Somebody of another organisation, who is answered all through the block, and at its end."""
    async with connected(gateway, org="good", user="alice") as client, trio.open_nursery() as nursery:

        async def talk() -> None:
            while True:
                assert (await client.ask("ping")).t == "pong"
                await trio.sleep(0.01)  # the bystander's own pace

        nursery.start_soon(talk)
        yield
        nursery.cancel_scope.cancel()
    async with connected(gateway, org="good", user="alice") as client:
        assert (await client.ask("ping")).t == "pong"


async def forgotten(gateway: Gateway, but: int = 0) -> None:
    """Wait until nothing is left of any connection, ``but`` for so many."""
    await until(lambda: gateway.listener.open == but, "the end of the connections")
    await until(lambda: len(gateway.hub.connections) == but, "the hub's forgetting")
    assert len(gateway.sessions) == but
    assert gateway.http.connections == 0


def http_head(path: str, method: str = "GET", *headers: str) -> bytes:
    """A plain HTTP request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """All that comes, also when a reset ends it."""
    data = bytearray()
    with trio.fail_after(DEADLINE), contextlib.suppress(trio.BrokenResourceError):
        while chunk := await stream.receive_some(65536):
            data += chunk
    return bytes(data)


def status_of(answer: bytes) -> int:
    """Of an HTTP answer."""
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])
