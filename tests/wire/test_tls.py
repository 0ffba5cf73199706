"""Over TLS the reader and the writer are tasks on one stream: order and ends are as on plain sockets."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from gateway.wire.connection import WireLimits
from protocol.errors import CloseCode
from tests.framing import CLOSE, PING, TEXT, client_frame, close_payload
from tests.support import running_gateway, until
from tests.upgrade import request_head
from tests.wire.support import Peer, WireServer, dial, fragments, read_head, serving, upgraded

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts() -> Iterator[Contexts]:
    """For the server and for a client that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    yield server, client


@contextlib.asynccontextmanager
async def tls_stream(port: int, context: ssl.SSLContext) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    stream = trio.SSLStream(await dial(port), context, server_hostname="localhost", https_compatible=True)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def tls_peer(server: WireServer, context: ssl.SSLContext) -> AsyncIterator[Peer]:
    async with tls_stream(server.port, context) as stream:
        yield await upgraded(stream)


BREACHES = {
    "protocol": (client_frame(3), CloseCode.PROTOCOL_ERROR),
    "utf8": (client_frame(TEXT, b"\xff"), CloseCode.INVALID_DATA),
    "size": (client_frame(TEXT, bytes(100_000)), CloseCode.TOO_LARGE),
}


@pytest.mark.parametrize(("breach", "code"), BREACHES.values(), ids=BREACHES)
@pytest.mark.parametrize(
    "answer", [b"", client_frame(CLOSE, close_payload(1002))], ids=["silent", "answering"]
)
async def test_after_an_error_nobody_waits(
    answer: bytes, breach: bytes, code: CloseCode, contexts: Contexts
) -> None:
    """The server says the Close and ends its side; it does not sit out the closing deadline."""
    limits = WireLimits(message_bytes=50_000, close_timeout=3600)
    async with serving(ssl_context=contexts[0], limits=limits) as server:
        async with tls_peer(server, contexts[1]) as peer:
            await peer.send(breach)
            assert (await peer.frame()).code == code
            await peer.send(answer)
            assert await peer.at_end()
        await server.all_ended()


async def test_the_last_words_arrive_before_a_reset_can(contexts: Contexts) -> None:
    """What the peer goes on sending is read away until it has heard the Close."""
    async with serving(ssl_context=contexts[0]) as server, tls_peer(server, contexts[1]) as peer:
        await peer.send(client_frame(3), client_frame(TEXT, b"x" * 1000) * 500)
        assert (await peer.frame()).code == 1002
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send(client_frame(TEXT, b"x" * 1000) * 500)


@pytest.mark.parametrize(
    "hello", [client_frame(TEXT, b"hi"), fragments(TEXT, b"h", b"i")], ids=["fast", "slow"]
)
async def test_the_closing_handshake(hello: bytes, contexts: Contexts) -> None:
    async with serving(ssl_context=contexts[0], limits=WireLimits(close_timeout=3600)) as server:
        async with tls_peer(server, contexts[1]) as peer:
            await peer.send(hello, client_frame(CLOSE, close_payload(1001)))
            assert (await peer.frame()).payload == b"hi"
            assert (await peer.frame()).code == 1001
            assert await peer.at_end()
        await server.all_ended()
        assert server.ended[0].close_code == 1001


async def test_the_answer_to_the_upgrade_and_the_greeting_come_first(
    contexts: Contexts, tmp_path: Path
) -> None:
    """A ping came with the request, and critical events come all the time: both overtake, but not these."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running_gateway(tls={"certificate": str(chain), "key": str(key)}) as gateway:

        async def alarm() -> None:
            while True:
                await gateway.hub.publish("acme", None, "alarm", critical=True)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm)
            token = gateway.auth.issue(org="acme", user="alice").token
            for _ in range(10):
                async with tls_stream(gateway.port, trusting) as stream:
                    await stream.send_all(request_head(f"/ws?token={token}") + client_frame(PING, b"?") * 3)
                    head, rest = await read_head(stream)
                    assert head.startswith(b"HTTP/1.1 101 ")
                    peer = Peer(stream, rest)
                    assert b'"t":"connected"' in (await peer.frame()).payload
            nursery.cancel_scope.cancel()
        await until(lambda: gateway.listener.open == 0, "the end of the connections")
