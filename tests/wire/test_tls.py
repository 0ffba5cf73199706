"""Over TLS order, bounds and ends are as on plain sockets."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from gateway.config.settings import TlsSettings
from gateway.wire import newcomers
from gateway.wire.connection import WireConnection, WireLimits
from gateway.wire.flusher import Flusher
from gateway.wire.outbox import Outbox
from gateway.wire.tls import Handshakes, TlsSocket
from protocol.errors import CloseCode
from protocol.frames import BINARY, server_frame
from tests.framing import CLOSE, PING, TEXT, client_frame, close_payload, take_frame
from tests.streams.support import Events
from tests.support import DEADLINE, certificate, running_gateway, until
from tests.upgrade import request_head
from tests.wire.support import (
    Peer,
    Recorder,
    WireServer,
    dial,
    fragments,
    peer_of,
    read_head,
    serving,
    upgraded,
)

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
    files, trusting = certificate(tmp_path, "localhost")
    async with running_gateway(tls=files) as gateway:

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


class Pair:
    """A TLS connection in one thread: our end with an outbox, and a client that reads when it is told to."""

    def __init__(self, contexts: Contexts, **bounds: int) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.sock = TlsSocket(ours, contexts[0])
        self.client = contexts[1].wrap_socket(
            theirs, server_hostname="localhost", do_handshake_on_connect=False
        )
        waiting = [self.client.do_handshake, self.sock.do_handshake]
        while waiting:
            try:
                waiting[0]()
                del waiting[0]
            except ssl.SSLWantReadError:
                waiting.reverse()
        self.flusher = Flusher()
        self.outbox = Outbox(self.flusher, self.sock, **bounds)
        self.got = b""

    def read(self, limit: int = 2**30) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            while limit > 0:
                chunk = self.client.recv(min(limit, 65536))
                self.got += chunk
                limit -= len(chunk)

    def flush(self) -> None:
        """What the writer task and the flusher do when there is room."""
        self.outbox.blocked = False
        self.outbox.flush()

    def close(self) -> None:
        self.sock.close()
        self.client.close()


@pytest.mark.parametrize("seed", range(20))
def test_frames_stay_whole_and_in_order_whatever_comes_between(seed: int, contexts: Contexts) -> None:
    """A record that OpenSSL has begun must come first, though an urgent frame was put before it meanwhile."""
    chance = random.Random(seed)
    pair = Pair(contexts, max_messages=10_000, max_bytes=2**24)
    sent: dict[bool, list[bytes]] = {False: [], True: []}
    for number in range(300):
        urgent = chance.random() < 0.3
        size = chance.choice([30, *[16_379] * 6, 16_380, 16_381, 20_000, 300_000])
        payload = (b"%d %d " % (urgent, number)).ljust(0 if urgent else size, b"\0")
        sent[urgent].append(payload)
        put = pair.outbox.put_urgent if urgent else pair.outbox.put
        assert put(server_frame(BINARY, payload))
        if chance.random() < 0.6:
            pair.flush()
        if chance.random() < 0.3:
            pair.read(chance.choice([1, 5000, 100_000]))
    while pair.outbox.size:
        pair.flush()
        pair.read()
    pair.read()
    got: dict[bool, list[bytes]] = {False: [], True: []}
    data = pair.got
    while (taken := take_frame(data)) is not None:
        frame, data = taken
        got[frame.payload.startswith(b"1")].append(frame.payload)
    assert data == b"" and got == sent
    assert pair.outbox.sent_messages == 300
    pair.close()


def test_an_outbox_is_full_only_when_the_peer_does_not_read(contexts: Contexts) -> None:
    pair = Pair(contexts, max_messages=100, max_bytes=500_000)
    for _ in range(2000):
        assert not pair.outbox.refuses(1000)
        assert pair.outbox.put(server_frame(BINARY, bytes(1000)))
        if pair.outbox.blocked:
            pair.read()
            pair.flush()
    assert not pair.outbox.refuses(1000)
    most = 0
    while not pair.outbox.refuses(1000):
        pair.outbox.put(server_frame(BINARY, bytes(1000)))
        most = max(most, pair.outbox.size)
    assert pair.outbox.blocked and most <= 500_000
    pair.close()


async def test_handshakes_of_one_address_wait_for_one_another(contexts: Contexts) -> None:
    """Who begins many and finishes none holds up nobody else, and who says nothing takes no place."""
    handshakes = Handshakes(contexts[0], per_address=2)
    said_first = hello(contexts[1])
    with contextlib.ExitStack() as sockets:

        def dialled() -> tuple[socket.socket, socket.socket]:
            ours, theirs = (sockets.enter_context(end) for end in socket.socketpair())
            ours.setblocking(False)
            return ours, theirs

        async with trio.open_nursery() as nursery:
            mine, neighbour, other = "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"
            for address, said in [(mine, b"")] * 5 + [(mine, said_first), (neighbour, said_first)] * 2:
                ours, theirs = dialled()
                theirs.sendall(said)
                nursery.start_soon(handshakes.secure, ours, address)
            await trio.testing.wait_all_tasks_blocked()
            assert handshakes.under_way == 2
            ours, theirs = dialled()
            stream = trio.SSLStream(
                trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
                contexts[1],
                server_hostname="localhost",
            )
            with trio.fail_after(DEADLINE):
                async with trio.open_nursery() as both:
                    both.start_soon(stream.do_handshake)
                    (await handshakes.secure(ours, other)).close()
            assert handshakes.under_way == 2
            nursery.cancel_scope.cancel()
        assert handshakes.under_way == 0 and not handshakes._addresses


def hello(context: ssl.SSLContext) -> bytes:
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_who_waits_for_a_place_keeps_its_time_but_not_for_ever(
    contexts: Contexts, mock_clock: trio.testing.MockClock
) -> None:
    handshakes = Handshakes(contexts[0], per_address=1)
    secured: list[str] = []

    async def secure(sock: socket.socket, name: str) -> None:
        with trio.move_on_after(10) as scope, contextlib.suppress(OSError):
            (await handshakes.secure(sock, "a", scope)).close()
            secured.append(name)

    async def pass_time(seconds: float) -> None:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        with contextlib.ExitStack() as sockets:
            peers: dict[str, socket.socket] = {}
            for name in ("idle", "patient", "last"):
                ours, peers[name] = (sockets.enter_context(end) for end in socket.socketpair())
                ours.setblocking(False)
                peers[name].sendall(hello(contexts[1]) if name != "patient" else b"")
                if name == "patient":
                    peers[name].setblocking(False)
                    client = contexts[1].wrap_socket(
                        peers[name], server_hostname="localhost", do_handshake_on_connect=False
                    )
                    sockets.callback(client.close)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()
                nursery.start_soon(secure, ours, name)
                await trio.testing.wait_all_tasks_blocked()
            await pass_time(8)
            assert handshakes.under_way == 1
            peers["idle"].shutdown(socket.SHUT_RDWR)  # its place is free
            await pass_time(1)
            assert handshakes.under_way == 1 and not secured
            await pass_time(2)  # eleven seconds since it came, three since it has its place
            assert len(nursery.child_tasks) == 1, "the last one has waited for as long as it may"
            client.do_handshake()
            await trio.testing.wait_all_tasks_blocked()
            assert secured == ["patient"]


class Passes(trio.abc.Instrument):
    """Counts what happens between two passes of the loop."""

    def __init__(self) -> None:
        self.steps = [0]

    def before_io_wait(self, timeout: float) -> None:
        self.steps.append(0)


@pytest.mark.parametrize(("seconds", "most"), [(0.001, 1), (0.0003, 2)])
async def test_others_have_their_turn_between_handshakes(
    seconds: float, most: int, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many begin at once: 0.4 ms of them, and not a step more, between two passes."""
    clock, passes, step = [0.0], Passes(), TlsSocket.do_handshake

    def take_step(sock: TlsSocket) -> None:
        clock[0] += seconds
        passes.steps[-1] += 1
        step(sock)

    monkeypatch.setattr(TlsSocket, "do_handshake", take_step)
    monkeypatch.setattr(newcomers, "perf_counter", lambda: clock[0])
    handshakes = Handshakes(contexts[0])

    async def serve(sock: socket.socket) -> None:
        (await handshakes.secure(sock, "a")).close()

    with contextlib.ExitStack() as sockets:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                ours, theirs = (sockets.enter_context(end) for end in socket.socketpair())
                ours.setblocking(False)
                stream = trio.SSLStream(
                    trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
                    contexts[1],
                    server_hostname="localhost",
                )
                nursery.start_soon(stream.do_handshake)
                nursery.start_soon(serve, ours)
            trio.lowlevel.add_instrument(passes)
    trio.lowlevel.remove_instrument(passes)
    assert sum(passes.steps) >= 60 and max(passes.steps) == most


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("politely", [False, True], ids=["cut", "closed"])
async def test_what_has_ended_is_freed_at_once(politely: bool, secure: bool, contexts: Contexts) -> None:
    """Without the cycle collector, which runs seldom."""
    handlers: list[weakref.ref[Recorder]] = []

    def handler(wire: WireConnection) -> Recorder:
        recorder = Recorder(wire)
        handlers.append(weakref.ref(recorder))
        return recorder

    gc.collect()
    gc.disable()
    try:
        async with serving(handler, ssl_context=contexts[0] if secure else None) as server:
            for _ in range(3):
                async with contextlib.AsyncExitStack() as stack:
                    peer = await stack.enter_async_context(
                        tls_peer(server, contexts[1]) if secure else peer_of(server.port)
                    )
                    await peer.send(client_frame(TEXT, b"hi"))
                    if politely:
                        await peer.send(client_frame(CLOSE, close_payload(1000)))
                        assert (await peer.hear()).code == 1000
                await server.all_ended()
            server.ended.clear()
            await trio.testing.wait_all_tasks_blocked()
            assert [found() for found in handlers] == [None] * 3
            assert not [
                found for found in gc.get_objects() if issubclass(type(found), (WireConnection, TlsSocket))
            ]
    finally:
        gc.enable()


async def test_event_streams_over_tls(tmp_path: Path) -> None:
    """Enough of them for one pass over their sockets; each event has the cursor of its own reader."""
    authority = trustme.CA()
    pem = tmp_path / "node.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with running_gateway(tls=TlsSettings(certificate=str(pem), key=str(pem))) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for number in range(20):
                token = gateway.auth.issue(org="acme", user=f"u{number}").token
                stream = await stack.enter_async_context(tls_stream(gateway.port, client))
                head = f"GET /api/v1/stream?join=r&token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                await stream.send_all(head.encode())
                reader = Events(stream)
                await reader.begin()
                await reader.of("reply")
                readers.append(reader)
            for number in range(50):
                await gateway.publish("acme", "r", "e", number)
            for reader in readers:
                assert [(await reader.of("event"))["data"] for _ in range(50)] == list(range(50))
            assert len({reader.last_id for reader in readers}) == 20
