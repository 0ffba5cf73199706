"""What many tests need: a running gateway, and a raw client that says exactly what it is told."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import trio
import trio_websocket
import trustme

from gateway.app import Gateway
from gateway.testing.raw import RawClient
from gateway.testing.settings import make_settings
from protocol.codec import Codec
from protocol.json import JSON
from tests.secure import tls_settings, trusting

DEADLINE = 60.0
"""Seconds after which a test that still waits has failed."""


async def start_gateway(nursery: trio.Nursery, **changes: Any) -> Gateway:
    """Start a gateway in ``nursery``; it runs until it is stopped or the nursery is cancelled."""
    gateway = Gateway(make_settings(**{"tls": tls_settings(), **changes}))
    await nursery.start(gateway.run)
    return gateway


@contextlib.asynccontextmanager
async def running_gateway(**changes: Any) -> AsyncIterator[Gateway]:
    """A gateway for the length of the block."""
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery, **changes)
        yield gateway
        nursery.cancel_scope.cancel()


def url(gateway: Gateway, token: str | None = None, path: str = "/ws", **query: str) -> str:
    """The address of a gateway's WebSocket."""
    if token is not None:
        query["token"] = token
    tail = "&".join(f"{name}={value}" for name, value in query.items())
    scheme = "ws" if trusting() is None else "wss"
    return f"{scheme}://127.0.0.1:{gateway.port}{path}{'?' if tail else ''}{tail}"


Raw = RawClient
"""One connection that speaks the envelope through trio-websocket, command by command."""


async def greeted(raw: Raw) -> Raw:
    """Take the greeting, which must be the first message."""
    await raw.greet()
    return raw


@contextlib.asynccontextmanager
async def connected(
    gateway: Gateway,
    *,
    org: str = "acme",
    user: str | None = "alice",
    codec: Codec = JSON,
    token: str | None = None,
    **claims: Any,
) -> AsyncIterator[Raw]:
    """A raw client of ``gateway``, authenticated and greeted."""
    token = token or gateway.auth.issue(org=org, user=user, **claims).token
    socket: trio_websocket.WebSocketConnection | None = None
    try:
        async with trio_websocket.open_websocket_url(
            url(gateway, token), ssl_context=trusting(), subprotocols=[codec.subprotocol]
        ) as socket:
            yield await greeted(Raw(socket, codec, patience=DEADLINE))
    finally:
        # trio-websocket leaves the socket to the garbage collector when the server closed first.
        if socket is not None:
            await trio.aclose_forcefully(socket._stream)


@contextlib.asynccontextmanager
async def all_connected(
    gateway: Gateway, users: Iterable[str], *, codecs: Sequence[Codec] = (JSON,), **claims: Any
) -> AsyncIterator[list[Raw]]:
    """One client for each of ``users``, with the codecs in turn."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                connected(gateway, user=user, codec=codecs[number % len(codecs)], **claims)
            )
            for number, user in enumerate(users)
        ]


async def until(condition: Any, what: str = "the condition") -> None:
    """Wait until ``condition()`` holds, without guessing how long that takes; fail after DEADLINE seconds."""
    with trio.move_on_after(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await trio.sleep(0.005)
    assert condition(), f"{what} did not come true"


def held(gateway: Gateway) -> dict[str, float]:
    """What a gateway without clients must not hold any more (``Gateway.census``); {} is right."""
    lasting = ("tasks", "broker.", "cluster.", "cache.", "hub.retired", "hub.trace", "guard.suspects")
    return {name: count for name, count in gateway.census().items() if count and not name.startswith(lasting)}


def certificate(folder: Path, name: str) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings of ``tls`` with a certificate for ``name``, and a client's context that trusts it."""
    authority = trustme.CA()
    made = authority.issue_cert(name)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return {"certificate": str(chain), "key": str(key)}, trusting
