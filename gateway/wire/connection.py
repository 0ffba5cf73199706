"""One WebSocket connection: a nursery with reader, writer and heartbeat.

A connection begins after the upgrade was answered and ends with its nursery; then its
socket is closed and nothing of it remains. What it carries is its handler's business
(:class:`Handler`), so the same wire serves the envelope and a plain echo. What was read is
handled in :mod:`gateway.wire.fast_lane`, most of it without waking a task of this one.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

import trio

from gateway.wire.engine import Engine
from gateway.wire.fast_lane import CHUNK, FastLane, Handler, WireLimits
from gateway.wire.slow_lane import run_slow_lane
from gateway.wire.timers import Timer
from protocol.errors import CloseCode
from protocol.frames import PING_FRAME, close_frame

__all__ = ["Handler", "WireConnection", "WireLimits"]


class WireConnection(FastLane):
    """Give it a plain non-blocking ``sock``, or a ``stream`` (TLS, memory); it closes what it was given."""

    __slots__ = (
        "_busy",
        "_flush_deadline",
        "_flusher",
        "_nursery",
        "_stream",
        "_tick",
        "close_deadline",
    )

    kind: Final = "websocket"

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
        super().__init__(engine, limits, sock, unread)
        self._flusher = engine.flusher
        self._stream = stream
        self._busy = False
        self._tick = Timer(engine.timers)
        self._nursery: trio.Nursery | None = None
        self.close_deadline = math.inf
        self._flush_deadline = 0.0

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
                        chunk = self._sock.recv(CHUNK)
                        break
                    except BlockingIOError:
                        continue
            else:
                assert self._stream is not None
                chunk = bytes(await self._stream.receive_some(CHUNK))
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


async def _part_tls(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """As for a plain socket: say that nothing more comes, and let the peer close."""
    transport = stream.transport_stream
    with contextlib.suppress(trio.BrokenResourceError):
        try:
            await stream.unwrap()  # sends close_notify and awaits the peer's, but not if messages come before
        except trio.BrokenResourceError:
            await transport.send_eof()
            while await transport.receive_some(CHUNK):
                pass
    await transport.aclose()  # unwrapped, the TLS stream counts as closed
