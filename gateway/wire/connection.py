"""One WebSocket connection: a nursery with reader, writer and heartbeat, and the fast lane.

A connection begins after the upgrade was answered and ends with its nursery; then its
socket is closed and nothing of it remains. What it carries is its handler's business
(:class:`Handler`), so the same wire serves the envelope and a plain echo.

The fast lane handles whole frames straight out of the chunk that was read, many at a
time, without a task switch. The first frame that is anything else hands the connection
over to trio-websocket for good (``gateway/wire/handover.py``).
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

import trio

from gateway.wire.alarms import Alarm
from gateway.wire.engine import Engine
from gateway.wire.flusher import Lane
from gateway.wire.handover import run_slow_lane
from gateway.wire.outbox import Outbox
from gateway.wire.signal import Signal
from protocol.errors import CloseCode
from protocol.frames import (
    BINARY,
    CLOSE,
    PING,
    PING_FRAME,
    PONG,
    TEXT,
    close_frame,
    cut_frames,
    parse_close,
    server_frame,
)

__all__ = ["Handler", "WireConnection", "WireLimits"]

log = logging.getLogger(__name__)

_CHUNK: Final = 65536
_MAX_PIECES: Final = 16
"""Chunks in which one frame may come in the fast lane."""
_TURN: Final = 0.0005
"""Seconds for which one connection's messages are handled before it is another one's turn."""


class Handler(Protocol):
    """What a connection carries. None of its methods may block, and none should raise."""

    deadline: float
    """Trio time at which ``on_deadline`` is to be called; ``math.inf`` for never."""

    def on_message(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Handle one message; what is returned is awaited before the next message is handled."""

    def on_deadline(self) -> None:
        """``deadline`` has come; set the next one."""


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


class WireConnection:
    """Give it a plain non-blocking ``sock``, or a ``stream`` (TLS, memory); it closes what it was given."""

    __slots__ = (
        "_attention",
        "_backlog",
        "_busy",
        "_finished",
        "_flush_deadline",
        "_flusher",
        "_foreign",
        "_heard",
        "_nursery",
        "_parted",
        "_pending",
        "_pieces",
        "_pump",
        "_sock",
        "_stream",
        "_tick",
        "_work",
        "armed",
        "close_code",
        "close_deadline",
        "handler",
        "limits",
        "outbox",
        "queued",
        "received_bytes",
        "received_messages",
    )

    def __init__(
        self,
        *,
        engine: Engine,
        limits: WireLimits,
        sock: socket.socket | None = None,
        stream: trio.abc.Stream | None = None,
        unread: bytes = b"",
    ) -> None:
        """``unread`` is what came behind the upgrade request in the same chunk."""
        self._flusher = engine.flusher
        self._sock = sock
        self._stream = stream
        self._pump = engine.pump if sock is not None else None
        self.limits = limits
        self.outbox = Outbox(
            engine.flusher, sock, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.outbox.on_full = self._too_slow
        self.handler: Handler
        self._pending = unread
        self._pieces = 0
        self._backlog: list[tuple[int, bytes]] | None = None
        self._work: Awaitable[None] | None = None
        self._foreign = False
        self._finished = False
        self.armed = False
        self.queued = False
        self._busy = False
        self._heard = True
        self._parted = False
        self._attention = Signal()
        self._tick = Alarm(engine.alarms)
        self._nursery: trio.Nursery | None = None
        self.close_code: int = 1006
        self.close_deadline = math.inf
        self._flush_deadline = 0.0
        self.received_messages = 0
        self.received_bytes = 0

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
        self._tick.set()

    def abort(self, code: int) -> None:
        """End at once, without a closing handshake."""
        if not self._finished:
            self.close_code = int(code)
            self.outbox.break_off()
            self._finish()
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task in this connection's nursery; it ends with the connection."""
        if self._nursery is not None:
            self._nursery.start_soon(function)

    def reschedule(self) -> None:
        """The handler's ``deadline`` moved nearer."""
        self._tick.set()

    def flush(self) -> None:
        """Send what handling a message has queued, here and for others."""
        self._flusher.flush()

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
                if self._sock is not None:
                    nursery.start_soon(self.outbox.write_socket, self._sock)
                else:
                    assert self._stream is not None
                    nursery.start_soon(self.outbox.write_stream, self._stream)
                nursery.start_soon(self._heartbeat)
                await self._read()
                await self._part()
                nursery.cancel_scope.cancel()
        finally:
            self._disarm()
            self._tick.at(math.inf)
            self.outbox.break_off()
            self._nursery = None
            if isinstance(self._work, Coroutine):
                self._work.close()
            if self._sock is not None:
                self._sock.close()
            try:
                if self._stream is not None:
                    await trio.aclose_forcefully(self._stream)
            finally:
                self.outbox.end()

    async def _read(self) -> None:
        if self._pending:
            self._feed(b"")
            self.flush()
        while not self._finished:
            if self._work is not None:
                work, self._work = self._work, None
                await self._await(work)
                self._resume()
                self.flush()
            elif self._backlog is not None and not self.armed:
                # The turn was over while the pump did not watch this socket, so it would not call.
                await trio.lowlevel.checkpoint()
                self._resume()
                self.flush()
            elif self._foreign and self._backlog is None:
                unread, self._pending = self._pending, b""
                await run_slow_lane(self, unread)
                return
            elif self._pump is not None and self._sock is not None:
                if not self.armed:
                    self._pump.arm(self._sock, self)
                await self._attention.wait()
            else:
                chunk = await self.receive()
                if chunk:
                    self._feed(chunk)
                    self.flush()
                else:
                    self._finish()

    async def receive(self) -> bytes:
        """Read the next chunk; empty at the end, however it came."""
        try:
            if self._sock is not None:
                while True:
                    await trio.lowlevel.wait_readable(self._sock)
                    try:
                        chunk = self._sock.recv(_CHUNK)
                        break
                    except BlockingIOError:
                        continue
            else:
                assert self._stream is not None
                chunk = bytes(await self._stream.receive_some(_CHUNK))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        self._heard = True
        self.received_bytes += len(chunk)
        return chunk

    async def _await(self, work: Awaitable[None]) -> None:
        """Await what a handler returned; its errors close the connection with 1011."""
        self._busy = True
        try:
            await work
        except Exception:
            self._handler_failed()
        finally:
            self._busy = False
            self._heard = True  # its pongs may wait unread

    async def take(self, payload: bytes, text: bool) -> None:
        """Deliver one message of the slow lane and wait until it is handled."""
        try:
            work = self._deliver(payload, text)
        except Exception:
            self._handler_failed()
        else:
            if work is not None:
                await self._await(work)
        self.flush()

    async def _part(self) -> None:
        """Let the last frames out, half-close, and let the peer close (RFC 6455, section 7.1.1).

        The writer and the heartbeat, which keeps the closing deadline, run meanwhile.
        """
        self.outbox.shut()
        with trio.move_on_after(self.limits.close_timeout):
            await self.outbox.emptied()
            if self.outbox.broken:
                return
            if self._sock is not None:
                try:
                    self._sock.shutdown(socket.SHUT_WR)
                except OSError:
                    return
            if isinstance(self._stream, trio.SSLStream):
                await _part_tls(self._stream)
            elif self._sock is not None or not self._parted:
                # Unread bytes at close would make the kernel reset the connection and lose our Close.
                while await self.receive():
                    pass

    async def _heartbeat(self) -> None:
        """Ping, find dead peers, and keep the handler's deadline and that of the closing handshake."""
        interval = self.limits.heartbeat
        next_ping = trio.current_time() + interval
        awaiting = False
        while True:
            open_until = min(next_ping, self.handler.deadline)
            self._tick.at(self.close_deadline if self.closing else open_until)
            await self._tick.wait()
            now = trio.current_time()
            if self.closing:
                if now >= self.close_deadline:
                    if now >= self._flush_deadline or not self.outbox.queue:
                        self.abort(self.close_code)
                        return
                    self.close_deadline = min(now + self.limits.close_timeout, self._flush_deadline)
                continue
            if now >= self.handler.deadline:
                try:
                    self.handler.on_deadline()
                except Exception:
                    self._handler_failed()
            if now >= next_ping:
                # While a command is awaited nothing is read, so silence proves nothing.
                if awaiting and not (self._heard or self._busy):
                    self.abort(CloseCode.HEARTBEAT_MISSED)
                    return
                self._heard = False
                awaiting = True
                self.outbox.put_urgent(PING_FRAME)
                next_ping = now + interval
            self.flush()

    # --- the fast lane: all of this runs without waiting ----------------------------------------

    @property
    def lane(self) -> Lane:
        """Whose turn this connection's reading and writing is on."""
        return self.outbox.lane

    def on_readable(self) -> None:
        """Read one chunk and handle what is in it (called by the pump); contains every error."""
        assert self._sock is not None
        if self._backlog is not None:
            self._resume()
            return
        try:
            chunk = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._finish()
            return
        self._heard = True
        self.received_bytes += len(chunk)
        self._feed(chunk)

    def _feed(self, chunk: bytes) -> None:
        if self._pending:
            chunk = self._pending + chunk
        frames, consumed, self._foreign = cut_frames(chunk)
        if frames:
            self._pending = b"" if consumed == len(chunk) else chunk[consumed:]
            self._pieces = 0
            self._handle(frames)
            return
        # Each further piece of one frame is put behind the others and looked at again, which a peer
        # that sends byte by byte could make expensive; the slow lane keeps its place in a frame.
        self._pending = chunk
        self._pieces += 1
        if self._pieces > _MAX_PIECES:
            self._foreign = True
        if self._foreign:
            self._call_reader()

    def _resume(self) -> None:
        """Go on with the frames that were left: behind an awaited command, or when the turn was over."""
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._handle(backlog)

    def _handle(self, frames: list[tuple[int, bytes]]) -> None:
        """Handle frames in order, until one has to be awaited or the turn is over."""
        begun = time.perf_counter() if len(frames) > 1 else 0.0
        done = 0
        for opcode, payload in frames:
            done += 1
            try:
                # Most of what comes is a message, and each call counts.
                if opcode <= BINARY:
                    self._work = self._deliver(payload, opcode == TEXT)
                else:
                    self._handle_control(opcode, payload)
            except Exception:
                # No more messages are handled, but the peer's Close may be among these frames.
                self._handler_failed()
                continue
            if self._work is not None:
                self._backlog = frames[done:] or None
                self._call_reader()
                return
            if self._finished:
                return
            # One command can take long: a publish to ten thousand members takes several milliseconds.
            if done < len(frames) and time.perf_counter() - begun > _TURN:
                self._backlog = frames[done:]
                if self.armed:
                    assert self._pump is not None
                    self._pump.queue(self)
                return
        if self._foreign:
            self._call_reader()

    def _handler_failed(self) -> None:
        log.exception("a handler failed; its connection is closed")
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _handle_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.outbox.put_urgent(server_frame(PONG, payload))
        elif opcode == CLOSE:
            self.peer_closed((parse_close(payload) or (1002, ""))[0])

    def _deliver(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Give one whole message to the handler, or close with 1009 if it is too large."""
        if self.outbox.sealed:
            return None
        self.received_messages += 1
        if len(payload) > self.limits.message_bytes:
            self.refuse_size()
            return None
        return self.handler.on_message(payload, text)

    def refuse_size(self) -> None:
        """A message is, or is becoming, too large."""
        self.close(CloseCode.TOO_LARGE, f"messages are limited to {self.limits.message_bytes} bytes")

    def peer_closed(self, code: int) -> None:
        """The peer's Close has come: answer it if ours has not gone out, then end."""
        self._parted = True
        if not self.outbox.sealed:
            self.close_code = code
            self.outbox.seal(close_frame(code) if code != 1005 else server_frame(CLOSE, b""))
        self._finish()

    def _too_slow(self) -> None:
        self.close(CloseCode.SLOW_CONSUMER, "too slow: the queue is full", discard=True)

    def _finish(self) -> None:
        self._finished = True
        self._call_reader()

    def _call_reader(self) -> None:
        self._disarm()
        self._attention.set()

    def _disarm(self) -> None:
        if self._pump is not None and self._sock is not None:
            self._pump.disarm(self._sock, self)


async def _part_tls(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """As for a plain socket: say that nothing more comes, and let the peer close."""
    transport = stream.transport_stream
    with contextlib.suppress(trio.BrokenResourceError):
        try:
            await stream.unwrap()  # sends close_notify and awaits the peer's, but not if messages come before
        except trio.BrokenResourceError:
            await transport.send_eof()
            while await transport.receive_some(_CHUNK):
                pass
    await transport.aclose()  # unwrapped, the TLS stream counts as closed
