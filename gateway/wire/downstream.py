"""One connection that only sends: an HTTP answer that ends with the connection (RFC 9112, section 6.3).

It stands on the same outbox, flusher and timers as a WebSocket, so a broadcast reaches both in one pass. What
comes in is thrown away; a client that half-closes is gone. It ends at once behind its last bytes, because
nobody answers a Close.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from gateway.wire.connection import WireLimits
from gateway.wire.ends import half_close, release, start_writer
from gateway.wire.engine import Engine
from gateway.wire.signal import Signal
from gateway.wire.sockets import WireSocket
from gateway.wire.stamped import StampedOutbox
from gateway.wire.timers import Alarm
from protocol.errors import CloseCode

__all__ = ["Downstream", "Source"]

log = logging.getLogger(__name__)

_CHUNK: Final = 4096
_MOST: Final = 64 * 1024
"""Bytes that a client may send behind its request; it has nothing to say."""
_BEAT: Final = b":\n\n"
"""A comment, which keeps proxies from closing."""


class Source:
    """What a downstream sends, and when. The base sends nothing by itself."""

    @property
    def deadline(self) -> float:
        """Trio time at which :meth:`on_deadline` is to be called."""
        return math.inf

    async def begin(self) -> None:
        """Called once at the beginning, in the connection's nursery."""

    def on_deadline(self) -> None:
        """``deadline`` has come."""

    def settled(self) -> None:
        """A task that was spawned has ended."""

    def last_words(self, code: int, reason: str) -> bytes:
        """The last bytes of a connection that is closed by itself, because its client is too slow."""
        return _BEAT

    def farewell(self) -> bytes:
        """The last bytes of any other end."""
        return _BEAT


_NOTHING: Final = Source()


class Downstream:
    """Give it a non-blocking ``sock`` (plain or TLS) or a ``stream`` (memory); it closes what it is given."""

    __slots__ = (
        "_end_at",
        "_engine",
        "_limits",
        "_next_beat",
        "_nursery",
        "_sealed",
        "_sock",
        "_source",
        "_stream",
        "_stuck_at",
        "alarm",
        "armed",
        "close_code",
        "message_bytes",
        "outbox",
        "queued",
        "received_bytes",
        "received_messages",
    )

    kind: Final = "sse"

    def __init__(
        self,
        *,
        engine: Engine,
        limits: WireLimits,
        sock: WireSocket | None = None,
        stream: trio.abc.Stream | None = None,
    ) -> None:
        self._limits = limits
        self._engine = engine
        self._sock = sock
        self._stream = stream
        self.outbox = StampedOutbox(
            engine.flusher, sock, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.outbox.on_full = self._too_slow
        self.outbox.on_blocked = self._start_writer
        self.alarm: Alarm | None = None
        self._next_beat = math.inf
        self._stuck_at = -1
        """What had been sent at a beat for which the socket had no room."""
        self._sealed = Signal()
        """Wakes the task: its last bytes are queued."""
        self.armed = self.queued = False
        self._source = _NOTHING
        self._nursery: trio.Nursery | None = None
        self._end_at = math.inf
        self.close_code: int = 1006
        self.message_bytes = limits.message_bytes
        self.received_messages = 0
        self.received_bytes = 0

    # --- what others may ask of it ------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Its last bytes are queued, or it is gone."""
        return self.outbox.sealed

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        """Send what is queued, then end; after ``close_timeout`` or ``flush_timeout``, in any case."""
        if not self.outbox.sealed:
            self._seal(code, self._source.farewell(), flush_timeout=flush_timeout)

    def _too_slow(self) -> None:
        reason = "too slow: the queue is full"
        if not self.outbox.sealed:
            last = self._source.last_words(CloseCode.SLOW_CONSUMER, reason)
            self._seal(CloseCode.SLOW_CONSUMER, last, discard=True)

    def _seal(self, code: int, last: bytes, *, discard: bool = False, flush_timeout: float = 0.0) -> None:
        self.close_code = int(code)
        self.outbox.seal(last, discard=discard)
        self._end_at = trio.current_time() + max(self._limits.close_timeout, flush_timeout)
        self._engine.timers.set(self, math.inf)
        self._sealed.set()

    def abort(self, code: int) -> None:
        """End at once."""
        self.close_code = int(code)
        self.outbox.break_off()
        self._disarm()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the connection."""
        if self._nursery is not None:
            self._nursery.start_soon(self._run_task, function)

    async def _run_task(self, function: Callable[[], Awaitable[None]]) -> None:
        await function()
        self._source.settled()

    def reschedule(self) -> None:
        """The source's ``deadline`` has moved nearer."""
        self._plan()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, source: Source) -> None:
        """Serve the connection until it has ended; never raises an error of the peer's making."""
        self._source = source
        outbox = self.outbox
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._next_beat = trio.current_time() + self._limits.heartbeat
                self._plan()
                if outbox.blocked:  # what was sent before
                    self._start_writer()
                if self._engine.pump is not None and self._sock is not None:
                    self._engine.pump.arm(self._sock, self)
                else:
                    nursery.start_soon(self._watch)
                nursery.start_soon(self._begin)
                while not outbox.sealed:
                    await self._sealed.wait()
                await self._part()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._source = _NOTHING
            self._engine.timers.set(self, math.inf)
            self._disarm()
            await release(outbox, self._sock, self._stream)

    async def _part(self) -> None:
        """Let the last bytes out and half-close."""
        with trio.move_on_at(self._end_at):
            await self.outbox.emptied()
        if not self.outbox.broken:
            half_close(self._sock)

    def _start_writer(self) -> None:
        if self._nursery is not None:  # it has begun, and is not over
            start_writer(self._nursery, self.outbox, self._sock, self._stream)

    async def _begin(self) -> None:
        try:
            await self._source.begin()
        except Exception:
            log.exception("a stream could not begin; it is closed")
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        self._engine.flusher.flush()

    # --- what comes in, and when nothing comes any more ---------------------------------------------------

    def on_readable(self) -> None:
        """Throw away what came, and notice when the client has gone; the pump calls this."""
        assert self._sock is not None
        try:
            self._take(self._sock.recv(_CHUNK))
        except BlockingIOError:
            pass
        except OSError:
            self._take(b"")

    def _take(self, chunk: bytes) -> None:
        self.received_bytes += len(chunk)
        if not chunk or self.received_bytes > _MOST:
            self.abort(self.close_code)

    def _disarm(self) -> None:
        if self._engine.pump is not None and self._sock is not None:
            self._engine.pump.disarm(self._sock, self)

    async def _watch(self) -> None:
        """As :meth:`on_readable`, where there is no pump."""
        while not self.outbox.broken:
            try:
                chunk = await self._receive()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            self._take(chunk)

    async def _receive(self) -> bytes:
        if self._stream is not None:
            return bytes(await self._stream.receive_some(_CHUNK))
        assert self._sock is not None
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(_CHUNK)
            except BlockingIOError:
                continue

    # --- time ---------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        if self._nursery is not None and not self.outbox.sealed:
            self._engine.timers.set(self, min(self._next_beat, self._source.deadline))

    def on_time(self) -> None:
        """Beat, find dead peers, keep the source's deadline."""
        outbox = self.outbox
        now = trio.current_time()
        if now >= self._source.deadline and not outbox.sealed:
            try:
                self._source.on_deadline()
            except Exception:
                log.exception("a deadline failed; its stream is closed")
                self.close(CloseCode.INTERNAL_ERROR, "internal error")
        if now >= self._next_beat and not outbox.sealed:
            # A socket that was full at the last beat, and has taken no message since, has no reader.
            if outbox.blocked and outbox.sent_messages == self._stuck_at:
                self.abort(CloseCode.HEARTBEAT_MISSED)
                return
            self._stuck_at = outbox.sent_messages if outbox.blocked else -1
            outbox.put_urgent(_BEAT)
            self._next_beat = now + self._limits.heartbeat
        self._engine.flusher.flush()
        self._plan()
