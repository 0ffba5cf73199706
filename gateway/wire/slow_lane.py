"""The slow lane: trio-websocket takes over a connection, for good, from a given byte.

It is for everything the fast lane leaves alone: fragments, 64-bit lengths, protocol errors,
bad UTF-8. trio-websocket reads from a stream of ours that first tells it an upgrade
request (the real one was answered long ago), swallows its 101 answer, and then gives the
unread bytes and what the socket brings. What it writes (pongs, Close) are whole frames, each
one ``send_all``; they go through the outbox like everything else, so the two never
interleave within a frame. No order is lost: the fast lane has stopped exactly in front of
the first byte that trio-websocket sees, and never runs again on this connection.

Traps of trio-websocket 0.12 and wsproto 1.3 that end here: after a protocol error the socket is
closed without a Close frame (we send it, with the code); its ``aclose`` has no deadline
(never called); a full message queue stops control frames (messages are handled as they
come); the fragments of a message are kept one by one, and empty ones count for nothing, so
they could grow without end (they are joined, in a list of the library's own that
``tests/wire/test_handover.py`` watches); ten thousand tiny frames in one chunk hold the loop for 200 ms (the
chunk is then given in smaller slices); Close codes registered later are errors to it (``closewatch.py``).
"""

from __future__ import annotations

import math
import time
from typing import Any, Final, Protocol

import trio
import wsproto.utilities
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from gateway.wire.closewatch import CloseWatch
from gateway.wire.outbox import Outbox
from protocol.errors import CloseCode
from protocol.frames import CLOSE, PONG

__all__ = ["run_slow_lane"]

_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


_TURN: Final = 0.001
"""Seconds that one slice of a chunk should take at most, unless it gives way to other tasks itself."""
_MIN_SLICE: Final = 256
_MAX_SLICE: Final = 65536
_MAX_PARTS: Final = 1024


class Wire(Protocol):
    """The connection, as this lane sees it."""

    @property
    def outbox(self) -> Outbox:
        """Where answers go."""

    @property
    def message_bytes(self) -> int:
        """A message may have so many bytes."""

    @property
    def closing(self) -> bool:
        """A Close frame was queued, or the connection is gone."""

    async def receive(self) -> bytes:
        """Read the next chunk; empty at the end."""

    async def take(self, payload: bytes, text: bool) -> None:
        """Deliver one message and wait until it is handled."""

    def close(self, code: int, reason: str = "") -> None:
        """Send Close and end."""

    def refuse_size(self) -> None:
        """A message is becoming too large: close."""

    def peer_closed(self, code: int) -> None:
        """The peer's Close has come: answer it and end."""


class _LaneStream(trio.abc.Stream):
    """What trio-websocket takes for its socket."""

    def __init__(self, wire: Wire, unread: bytes) -> None:
        self._wire = wire
        self._unread = unread
        self._requested = False
        self._accepted = trio.Event()
        self._slice = 4096
        self._since = math.inf
        self.websocket: WebSocketConnection | None = None
        self.handling = trio.Lock()
        """Held while a message is handled."""
        self.ended = False
        self._watch = CloseWatch()
        self._closed: int | None = None
        """The code of the peer's Close, which is next."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._requested:
            self._requested = True
            await trio.lowlevel.checkpoint()
            return _REQUEST
        # Bytes behind the request before accept() has returned would be a protocol error to wsproto.
        await self._accepted.wait()
        if time.perf_counter() - self._since > _TURN:
            self._slice = max(self._slice // 4, _MIN_SLICE)
        else:
            self._slice = min(self._slice * 2, _MAX_SLICE)
        if self.websocket is not None:
            parts: list[Any] = self.websocket._message_parts
            if len(parts) > _MAX_PARTS:
                parts[:] = [parts[0][:0].join(parts)]
        if self._closed is not None:
            return await self._hear_close(self._closed)
        if self._unread:
            await trio.lowlevel.checkpoint()
        else:
            self._unread = await self._wire.receive()
            self.ended = not self._unread
        unread, self._unread = self._unread[: self._slice], self._unread[self._slice :]
        found = self._watch.find(unread)
        if found is not None:
            start, self._closed = found
            unread = unread[:start]
            if not unread:
                return await self._hear_close(self._closed)
        self._since = time.perf_counter()
        return unread

    async def _hear_close(self, code: int) -> bytes:
        async with self.handling:  # what was asked before the Close is answered before it
            self._wire.peer_closed(code)
        self._wire.outbox.flush()
        return b""

    def gave_way(self) -> None:
        """Other tasks had their turn since the last slice."""
        self._since = math.inf

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.gave_way()
        if not self._accepted.is_set():
            self._accepted.set()  # this is the second 101
            return
        frame = bytes(data)
        if frame[0] & 15 == PONG:
            self._wire.outbox.put_urgent(frame)
        elif frame[0] & 15 == CLOSE:
            async with self.handling:  # what was asked before the error is answered before it
                self._fail(int.from_bytes(frame[2:4], "big"))
        self._wire.outbox.flush()

    def _fail(self, code: int) -> None:
        """The library closes of its own accord, for what the peer did."""
        if code == CloseCode.TOO_LARGE:
            self._wire.refuse_size()
        else:
            self._wire.close(code)

    def let_go(self) -> None:
        """It has ended: nothing more is asked of the wire."""
        del self._wire

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """The wire closes the socket, after what is queued has gone out."""
        await trio.lowlevel.checkpoint()


async def run_slow_lane(wire: Wire, unread: bytes) -> None:
    """Read and deliver messages until the connection ends; ``unread`` comes before the socket's bytes."""
    stream = _LaneStream(wire, unread)
    try:
        await _run(wire, stream)
    finally:
        # The library's connection is a cycle, and what it holds stays until the collector comes.
        stream.let_go()


async def _run(wire: Wire, stream: _LaneStream) -> None:
    code: int = CloseCode.PROTOCOL_ERROR
    try:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(
                nursery, stream, message_queue_size=0, max_message_size=wire.message_bytes
            )
            websocket = stream.websocket = await request.accept()
            while True:
                # It grows when the client has said who it is.
                websocket._max_message_size = wire.message_bytes
                try:
                    message = await websocket.get_message()
                except ConnectionClosed as closed:
                    if closed.reason is not None:
                        code = closed.reason.code
                    break
                text = isinstance(message, str)
                payload = message.encode() if isinstance(message, str) else bytes(message)
                async with stream.handling:
                    await wire.take(payload, text)
                stream.gave_way()
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, wsproto.utilities.ProtocolError):
        pass
    if not wire.closing and not stream.ended:
        # The library gave up without a Close frame.
        wire.close(CloseCode.PROTOCOL_ERROR if code == 1006 else code)
