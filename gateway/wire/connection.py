"""One WebSocket connection: a nursery with its reader, and a writer once its socket was full.

A connection begins after the upgrade was answered and ends with its nursery; then its
socket is closed and nothing of it remains. What it carries is its handler's business
(:class:`Handler`), so the same wire serves the envelope and a plain echo. What comes in is
handled by its :class:`~gateway.wire.reader.Reader`, most of it without waking a task of this one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from gateway.wire.ends import half_close, release, start_writer
from gateway.wire.engine import Engine
from gateway.wire.outbox import Outbox
from gateway.wire.reader import Handler, Reader, State
from gateway.wire.slow_lane import run_slow_lane
from gateway.wire.sockets import WireSocket
from gateway.wire.timers import Alarm
from protocol.errors import CloseCode
from protocol.frames import CLOSE, PING_FRAME, close_frame, server_frame

__all__ = ["Handler", "WireConnection", "WireLimits"]

log = logging.getLogger(__name__)


class WireLimits:
    """The bounds of one connection; one object serves all connections of a listener."""

    __slots__ = ("close_timeout", "heartbeat", "message_bytes", "queue_bytes", "queue_messages")

    def __init__(
        self,
        *,
        message_bytes: int = 2**20,
        queue_messages: int = 4096,
        queue_bytes: int = 4 * 2**20,
        heartbeat: float = 30.0,
        close_timeout: float = 2.0,
    ) -> None:
        """Sizes are in bytes, times in seconds."""
        self.message_bytes = message_bytes
        self.queue_messages = queue_messages
        self.queue_bytes = queue_bytes
        self.heartbeat = heartbeat
        self.close_timeout = close_timeout


class _Nobody:
    """Takes the place of handler and owner when a connection has ended, so that both can be freed."""

    deadline = math.inf

    def on_message(self, payload: bytes, text: bool) -> None:
        """Nobody listens."""

    def on_deadline(self) -> None:
        """There is none."""

    def handler_failed(self) -> None:
        """There is nothing to close."""

    refuse_size = handler_failed

    def peer_closed(self, code: int) -> None:
        """There is nobody to answer."""


_NOBODY: Final = _Nobody()


class WireConnection:
    """Give it a non-blocking ``sock`` (plain or TLS) or a ``stream`` (memory); it closes what it is given."""

    __slots__ = (
        "_awaiting",
        "_busy",
        "_engine",
        "_flush_deadline",
        "_next_ping",
        "_nursery",
        "_parted",
        "_sock",
        "_stream",
        "alarm",
        "close_code",
        "close_deadline",
        "limits",
        "outbox",
        "reader",
    )

    kind: Final = "websocket"

    def __init__(
        self,
        *,
        engine: Engine,
        limits: WireLimits,
        sock: WireSocket | None = None,
        stream: trio.abc.Stream | None = None,
        unread: bytes = b"",
    ) -> None:
        """``unread`` is what came behind the upgrade request in the same chunk."""
        self.limits = limits
        self._engine = engine
        self._sock = sock
        self._stream = stream
        self.outbox = Outbox(
            engine.flusher, sock, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.outbox.on_full = self._too_slow
        self.outbox.on_blocked = self._start_writer
        self.reader = Reader(
            self, self.outbox, sock, engine.pump, message_bytes=limits.message_bytes, unread=unread
        )
        self.close_code: int = 1006
        self._busy = False
        self._parted = False
        """The peer's Close has come."""
        self.alarm: Alarm | None = None
        self._next_ping = math.inf
        self._awaiting = False
        """A ping is out, and nothing has come since."""
        self._nursery: trio.Nursery | None = None
        self.close_deadline = math.inf
        self._flush_deadline = 0.0

    @property
    def handler(self) -> Handler:
        """Who gets the messages."""
        return self.reader.handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self.reader.handler = handler

    @property
    def received_messages(self) -> int:
        """Whole messages that came, also after the end."""
        return self.reader.received_messages

    @property
    def received_bytes(self) -> int:
        """Bytes that came, also after the end."""
        return self.reader.received_bytes

    # --- what others may ask of a connection -------------------------------------------------

    def close(
        self, code: int, reason: str = "", *, discard: bool = False, flush_timeout: float = 0.0
    ) -> None:
        """Send Close behind what is queued and end when the peer has answered, or after ``close_timeout``.

        While something is still queued, it is ``flush_timeout`` seconds, when they are more.
        """
        if self.outbox.sealed:
            return
        self.close_code = int(code)
        self.outbox.seal(close_frame(code, reason), discard=discard)
        now = trio.current_time()
        self.close_deadline = now + self.limits.close_timeout
        self._flush_deadline = now + flush_timeout
        self._plan()

    def abort(self, code: int) -> None:
        """End at once, without a closing handshake."""
        if self.reader.state is not State.ENDED:
            self.close_code = int(code)
            self.outbox.break_off()
            self.reader.finish()
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task in this connection's nursery; it ends with the connection."""
        if self._nursery is not None:
            self._nursery.start_soon(function)

    def reschedule(self) -> None:
        """The handler's ``deadline`` moved nearer."""
        self._plan()

    def flush(self) -> None:
        """Send what handling a message has queued, here and for others."""
        self._engine.flusher.flush()

    @property
    def closing(self) -> bool:
        """A Close frame was queued, or the connection is gone."""
        return self.outbox.sealed

    # --- its life -----------------------------------------------------------------------------

    async def run(self, handler: Handler) -> None:
        """Serve the connection until it has ended; never raises an error of the peer's making."""
        self.handler = handler
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._next_ping = trio.current_time() + self.limits.heartbeat
                self._plan()
                if self.outbox.blocked:  # what was sent before
                    self._start_writer()
                await self._read()
                await self._part()
                nursery.cancel_scope.cancel()
        finally:
            # What refers to this connection and is referred to by it goes now: the collector runs seldom.
            self.reader.end(_NOBODY, _NOBODY)
            self._nursery = None
            self._engine.timers.set(self, math.inf)
            await release(self.outbox, self._sock, self._stream)

    def _start_writer(self) -> None:
        if self._nursery is not None:  # it has begun, and is not over
            start_writer(self._nursery, self.outbox, self._sock, self._stream)

    async def _read(self) -> None:
        """Do what the reader's state asks for, until it has ended."""
        reader = self.reader
        if reader.pending:
            reader.feed(b"")
            self.flush()
        while True:
            match reader.state:
                case State.ENDED:
                    return
                case State.WORKING:
                    await self._await(reader.take_work())
                    reader.resume()
                    self.flush()
                case State.LEFT if not reader.armed:
                    # The turn was over while the pump did not watch this socket, so it would not call.
                    await trio.lowlevel.checkpoint()
                    reader.resume()
                    self.flush()
                case State.FOREIGN:
                    unread, reader.pending = reader.pending, b""
                    await run_slow_lane(self, unread)
                    return
                case _ if reader.watch():
                    await reader.attention.wait()
                case _:
                    chunk = await self.receive()
                    if chunk:
                        reader.feed(chunk)
                        self.flush()
                    else:
                        reader.finish()

    async def receive(self) -> bytes:
        """Read the next chunk; empty at the end, however it came."""
        return await self.reader.receive(self._stream)

    async def _await(self, work: Awaitable[None]) -> None:
        """Await what a handler returned; its errors close the connection with 1011."""
        self._busy = True
        try:
            await work
        except Exception:
            self.handler_failed()
        finally:
            self._busy = False
            self.reader.heard = True  # its pongs may wait unread

    async def take(self, payload: bytes, text: bool) -> None:
        """Deliver one message of the slow lane and wait until it is handled."""
        try:
            work = self.reader.deliver(payload, text)
        except Exception:
            self.handler_failed()
        else:
            if work is not None:
                await self._await(work)
        self.flush()

    # --- how it ends ---------------------------------------------------------------------------

    @property
    def message_bytes(self) -> int:
        """A message that comes may have so many bytes."""
        return self.reader.message_bytes

    @message_bytes.setter
    def message_bytes(self, size: int) -> None:
        self.reader.message_bytes = size

    def handler_failed(self) -> None:
        """Log the exception that is being handled, and close with 1011."""
        log.exception("a handler failed; closing its connection")
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def refuse_size(self) -> None:
        """A message is, or is becoming, too large."""
        self.close(CloseCode.TOO_LARGE, f"messages are limited to {self.message_bytes} bytes")

    def peer_closed(self, code: int) -> None:
        """The peer's Close has come: answer it if ours has not gone out, then end."""
        self._parted = True
        if not self.outbox.sealed:
            self.close_code = code
            self.outbox.seal(close_frame(code) if code != 1005 else server_frame(CLOSE, b""))
        self.reader.finish()

    def _too_slow(self) -> None:
        self.close(CloseCode.SLOW_CONSUMER, "too slow: the queue is full", discard=True)

    async def _part(self) -> None:
        """Let the last frames out, half-close, and let the peer close (RFC 6455, section 7.1.1).

        The writer runs meanwhile, and the timers keep the closing deadline.
        """
        self.outbox.shut()
        with trio.move_on_after(self.limits.close_timeout):
            await self.outbox.emptied()
            if self.outbox.broken:
                return
            if not half_close(self._sock):
                return
            if self._sock is not None or not self._parted:
                # Unread bytes at close would make the kernel reset the connection and lose our Close.
                while await self.receive():
                    pass

    # --- time ----------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Have the timers call when something is due: the closing handshake, else a ping or the handler."""
        if self._nursery is not None:
            open_until = min(self._next_ping, self.handler.deadline)
            self._engine.timers.set(self, self.close_deadline if self.closing else open_until)

    def on_time(self) -> None:
        """Ping, find dead peers, and keep the handler's deadline and that of the closing handshake."""
        now = trio.current_time()
        if self.closing:
            if now >= self.close_deadline:
                if now >= self._flush_deadline or not self.outbox.queue:
                    self.abort(self.close_code)
                    return
                self.close_deadline = min(now + self.limits.close_timeout, self._flush_deadline)
        else:
            if now >= self.handler.deadline:
                try:
                    self.handler.on_deadline()
                except Exception:
                    self.handler_failed()
            if now >= self._next_ping:
                # While a command is awaited nothing is read, so silence proves nothing.
                if self._awaiting and not (self.reader.heard or self._busy):
                    self.abort(CloseCode.HEARTBEAT_MISSED)
                    return
                self.reader.heard = False
                self._awaiting = True
                self.outbox.put_urgent(PING_FRAME)
                self._next_ping = now + self.limits.heartbeat
            self.flush()
        self._plan()
