"""A wire server with any handler, and a peer that sends exactly the bytes it is told to."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from bench.echo import Echo
from gateway.wire.connection import Handler, WireConnection, WireLimits
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life, Listener
from gateway.wire.upgrade import UpgradeRequest, accept_response
from tests.framing import BINARY, CLOSE, CONTINUATION, PONG, TEXT, Frame, client_frame, take_frame
from tests.support import DEADLINE

UPGRADE = (
    b"GET /any HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455, section 1.3 answers to that key."""

MakeHandler = Callable[[WireConnection], Handler]


class WireServer:
    """A port on which every path is a WebSocket, or streams in memory, with one kind of handler."""

    def __init__(
        self,
        handler: MakeHandler = Echo,
        *,
        pump: bool = True,
        limits: WireLimits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        """``options`` are the listener's."""
        self.handler = handler
        self.engine = Engine(pump=pump)
        self.flusher, self.pump = self.engine.flusher, self.engine.pump
        self.limits = limits or WireLimits()
        self.connections: list[WireConnection] = []
        """The living ones, oldest first."""
        self.ended: list[WireConnection] = []
        self.listener = Listener(
            websocket=self._serve, http=None, path=None, ssl_context=ssl_context, **options
        )
        self._end = trio.Event()
        self._nursery: trio.Nursery

    @property
    def port(self) -> int:
        return self.listener.port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        await self.listener.bind("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.engine.run)
            nursery.start_soon(self.listener.run)
            task_status.started()

    async def _serve(self, accepted: Accepted, request: UpgradeRequest, unread: bytes) -> Life:
        await accepted.send(accept_response(request, None))
        wire = WireConnection(
            engine=self.engine,
            limits=self.limits,
            sock=accepted.sock,
            stream=accepted.stream,
            unread=unread,
        )
        return self._live(wire)

    async def _live(self, wire: WireConnection) -> None:
        self.connections.append(wire)
        try:
            await wire.run(self.handler(wire))
        finally:
            self.connections.remove(wire)
            self.ended.append(wire)
            self._end.set()
            self._end = trio.Event()

    def in_memory(self, unread: bytes = b"") -> Peer:
        """A connection over a stream in memory, after the upgrade."""
        ours, theirs = trio.testing.memory_stream_pair()
        wire = WireConnection(engine=self.engine, limits=self.limits, stream=theirs, unread=unread)
        self._nursery.start_soon(self._live, wire)
        return Peer(ours)

    async def all_ended(self) -> None:
        """Wait until no connection is left."""
        with trio.fail_after(DEADLINE):
            while self.connections:
                await self._end.wait()


@dataclass
class Heard:
    """All that a server said until the end."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    close: Frame | None = None

    @property
    def code(self) -> int | None:
        """Of the Close; -1 when none came, None when it was empty."""
        return -1 if self.close is None else self.close.code


class Peer:
    """The client's end of one connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream | trio.abc.Stream, data: bytes = b"") -> None:
        self.stream = stream
        self._data = data

    async def send(self, *pieces: bytes) -> None:
        """Send the bytes in one piece."""
        with trio.fail_after(DEADLINE):
            await self.stream.send_all(b"".join(pieces))

    async def send_apart(self, data: bytes, size: int = 1) -> None:
        """Send so that the server reads at most ``size`` bytes at a time."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await trio.testing.wait_all_tasks_blocked()

    async def send_eof(self) -> None:
        """Say that nothing more comes, and go on listening."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def frame(self) -> Frame:
        """The next frame."""
        with trio.fail_after(DEADLINE):
            while (taken := take_frame(self._data)) is None:
                chunk = await self.stream.receive_some(65536)
                assert chunk, f"the end came instead of a frame, after {self._data!r}"
                self._data += chunk
        frame, self._data = taken
        return frame

    async def at_end(self) -> bool:
        """Whether the server has ended the connection instead of sending more; a reset raises."""
        if not self._data:
            with trio.fail_after(DEADLINE):
                self._data = bytes(await self.stream.receive_some(65536))
        return not self._data

    async def hear(self) -> Heard:
        """Listen until the server ends the connection, which it must do cleanly, and behind its Close."""
        heard = Heard()
        while not await self.at_end():
            assert heard.close is None, "there is something behind the Close"
            frame = await self.frame()
            if frame.opcode in {TEXT, BINARY}:
                assert frame.fin
                heard.messages.append((frame.opcode, frame.payload))
            elif frame.opcode == PONG:
                heard.pongs.append(frame.payload)
            else:
                assert frame.opcode == CLOSE, frame
                heard.close = frame
                if isinstance(self.stream, trio.StapledStream):
                    # In memory there is no half-closing: the server waits for our end.
                    await self.send_eof()
        return heard

    async def close(self) -> None:
        """Disappear."""
        await trio.aclose_forcefully(self.stream)


async def dial(port: int) -> trio.SocketStream:
    """A TCP connection on which nothing was said yet."""
    with trio.fail_after(DEADLINE):
        return await trio.open_tcp_stream("127.0.0.1", port)


async def read_head(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """An HTTP response head, and what came behind it."""
    data = b""
    with trio.fail_after(DEADLINE):
        while b"\r\n\r\n" not in data:
            chunk = await stream.receive_some(65536)
            assert chunk, f"the end came inside a response head, after {data!r}"
            data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


async def upgraded(stream: trio.abc.Stream, request: bytes = UPGRADE, behind: bytes = b"") -> Peer:
    """Upgrade a connection; ``behind`` is sent in one piece with the request."""
    with trio.fail_after(DEADLINE):
        await stream.send_all(request + behind)
    head, rest = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"sec-websocket-accept: " + ACCEPT.lower() in head.lower()
    return Peer(stream, rest)


@contextlib.asynccontextmanager
async def peer_of(port: int, **options: Any) -> AsyncIterator[Peer]:
    """An upgraded TCP connection; it disappears at the end of the block."""
    stream = await dial(port)
    try:
        yield await upgraded(stream, **options)
    finally:
        await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def serving(*args: Any, **options: Any) -> AsyncIterator[WireServer]:
    """A :class:`WireServer` for the length of the block; no connection may be left at its end."""
    async with trio.open_nursery() as nursery:
        server = WireServer(*args, **options)
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


class Recorder:
    """A handler that keeps what it gets and answers nothing, or what ``answer`` does."""

    deadline = math.inf

    def __init__(
        self,
        wire: WireConnection,
        answer: Callable[[WireConnection, bytes], Awaitable[None] | None] | None = None,
    ) -> None:
        self.wire = wire
        self.got: list[tuple[bytes, bool]] = []
        self._answer = answer

    def on_message(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        self.got.append((payload, text))
        return None if self._answer is None else self._answer(self.wire, payload)

    def on_deadline(self) -> None:
        """There is none."""


def recording(answer: Callable[[WireConnection, bytes], Awaitable[None] | None]) -> MakeHandler:
    """Makes recorders that answer so."""
    return lambda wire: Recorder(wire, answer)


def fragments(opcode: int, *parts: bytes) -> bytes:
    """One message in as many frames as there are parts."""
    last = len(parts) - 1
    return b"".join(
        client_frame(CONTINUATION if number else opcode, part, fin=number == last)
        for number, part in enumerate(parts)
    )
