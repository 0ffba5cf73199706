"""Peers that send a byte now and then, or nothing: each stage has its deadline.

The bounds: ``limits.head_timeout`` for TLS and the request head, ``limits.keep_alive`` for later heads,
``limits.body_timeout``, ``connection.heartbeat`` and ``connection.inactivity``, ``auth.in_band_timeout``.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.testing.node import run_node
from protocol.errors import CloseCode
from tests.attacks.support import (
    attacker,
    bystander,
    dial,
    forgotten,
    http_head,
    read_to_end,
    status_of,
)
from tests.framing import TEXT, client_frame
from tests.support import DEADLINE, certificate, running_gateway
from tests.upgrade import request_head


async def dribble(stream: trio.abc.SendStream, data: bytes) -> None:
    """Send byte by byte for as long as somebody takes it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for byte in data * 1000:
            await stream.send_all(bytes((byte,)))
            await trio.sleep(0.02)  # the peer's own pace


@pytest.mark.parametrize(
    "head",
    [b"", request_head("/ws?token=x" + "y" * 5000), http_head("/healthz", "GET", "X: " + "y" * 5000)],
    ids=["silence", "upgrade", "REST"],
)
async def test_request_heads_that_never_end(head: bytes) -> None:
    """Slowloris: a hundred at a time, and all of them are gone in time."""
    async with (
        running_gateway(limits={"head_timeout": 0.5, "keep_alive": 0.5}) as gateway,
        bystander(gateway),
    ):

        async def one() -> None:
            async with await dial(gateway) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(dribble, stream, head)
                assert status_of(await read_to_end(stream)) == 408
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)
        await forgotten(gateway, but=1)


async def test_bodies_that_never_end() -> None:
    async with running_gateway(limits={"body_timeout": 0.4}) as gateway, bystander(gateway):
        token = gateway.auth.issue(org="evil", user="mallory").token
        head = http_head(
            "/api/v1/broadcast", "POST", f"Authorization: Bearer {token}", "Content-Length: 100000"
        )

        async def one() -> None:
            async with await dial(gateway) as stream, trio.open_nursery() as nursery:
                await stream.send_all(head)
                nursery.start_soon(dribble, stream, b" ")
                assert status_of(await read_to_end(stream)) == 408
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        await forgotten(gateway, but=1)


async def test_handshakes_of_tls_that_stall(tmp_path: Path) -> None:
    """At the first byte, and half-way through."""
    files, _ = certificate(tmp_path, "127.0.0.1")
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    whole = hello.read()
    async with running_gateway(limits={"head_timeout": 0.5}, tls=files) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(60):
                stream = await stack.enter_async_context(await dial(gateway))
                part = (b"", whole[: len(whole) // 2], whole)[number % 3]
                if part:
                    await stream.send_all(part)
            await forgotten(gateway)


async def test_a_frame_that_never_ends(clock: MockClock) -> None:
    """Its sender is alive for the heartbeat, but says nothing: the inactivity limit ends it."""
    async with run_node(connection={"inactivity": 100.0}) as node:
        stream = await node.dial()
        await stream.send_all(request_head(f"/ws?token={node.token(org='evil', user=None)}"))
        await trio.sleep(1)
        await stream.send_all(client_frame(TEXT, b" " * 60_000, mask=b"\0\0\0\0")[:8])
        sent = 0
        while node.gateway.hub.connections:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(b" ")
                sent += 1
            await trio.sleep(5)
        assert node.gateway.hub.counters.closes == {CloseCode.INACTIVE: 1}
        assert 19 <= sent <= 22


async def test_peers_that_are_gone_are_found_by_the_heartbeat(clock: MockClock) -> None:
    """Half-open: nothing comes from them, not even the end."""
    async with run_node(connection={"heartbeat": 20.0}) as node:
        token = node.token(org="evil", user="m")
        streams = [await node.dial() for _ in range(100)]
        for stream in streams:
            await stream.send_all(request_head(f"/ws?token={token}"))
        await trio.sleep(39)
        assert len(node.gateway.hub.connections) == 100
        await trio.sleep(2)
        assert node.gateway.hub.connections == {} and not node.gateway.sessions
        assert node.gateway.hub.counters.closes == {CloseCode.HEARTBEAT_MISSED: 100}


async def test_who_never_says_who_it_is(clock: MockClock) -> None:
    async with run_node(auth={"in_band": True, "in_band_timeout": 3.0}) as node:
        streams = [await node.dial() for _ in range(100)]
        for stream in streams:
            await stream.send_all(request_head("/ws"))
        await trio.sleep(2)
        assert len(node.gateway.sessions) == 100
        await trio.sleep(5)
        assert not node.gateway.sessions


async def test_who_pings_and_says_nothing_else(clock: MockClock) -> None:
    async with run_node(connection={"inactivity": 60.0}) as node, node.raw() as raw:
        for _ in range(6):
            await raw.socket.ping()
            await trio.sleep(9)
        assert len(node.gateway.hub.connections) == 1
        assert (await raw.closed()).code == CloseCode.INACTIVE


async def test_a_dribbling_frame_does_not_hold_others_up() -> None:
    async with running_gateway() as gateway, bystander(gateway), contextlib.AsyncExitStack() as stack:
        frame = client_frame(TEXT, b'{"v":1,"t":"ping","id":1}')
        peers = [await stack.enter_async_context(attacker(gateway)) for _ in range(30)]
        for byte in frame:
            for peer in peers:
                await peer.send(bytes((byte,)))
        for peer in peers:
            with trio.fail_after(DEADLINE):
                while b'"pong"' not in (await peer.frame()).payload:
                    pass
