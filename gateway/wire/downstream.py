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
from gateway.wire.sockets import WireSocket
from gateway.wire.stamped import StampedOutbox
from gateway.wire.timers import Timer
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


class Downstream:
    """Give it a non-blocking ``sock`` (plain or TLS) or a ``stream`` (memory); it closes what it is given."""

    __slots__ = (
        "_end_at",
        "_flusher",
        "_limits",
        "_nursery",
        "_sock",
        "_source",
        "_stream",
        "_tick",
        "close_code",
        "message_bytes",
        "outbox",
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
        self._flusher = engine.flusher
        self._sock = sock
        self._stream = stream
        self.outbox = StampedOutbox(
            engine.flusher, sock, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.outbox.on_full = self._too_slow
        self._tick = Timer(engine.timers)
        self._source = Source()
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
        self._tick.set()

    def abort(self, code: int) -> None:
        """End at once."""
        self.close_code = int(code)
        self.outbox.break_off()
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
        self._tick.set()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, source: Source) -> None:
        """Serve the connection until it has ended; never raises an error of the peer's making."""
        self._source = source
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                start_writer(nursery, self.outbox, self._sock, self._stream)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._begin)
                await self._keep_time()
                nursery.cancel_scope.cancel()
        finally:
            self._source = Source()
            self._nursery = None
            await release(self.outbox, self._tick, self._sock, self._stream)

    async def _begin(self) -> None:
        try:
            await self._source.begin()
        except Exception:
            log.exception("a stream could not begin; it is closed")
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        self._flusher.flush()

    async def _watch(self) -> None:
        """Throw away what comes, and notice when the client has gone."""
        while self.received_bytes <= _MOST:
            try:
                chunk = await self._receive()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                break
            if not chunk:
                break
            self.received_bytes += len(chunk)
        self.abort(self.close_code)

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

    async def _keep_time(self) -> None:
        """Beat, find dead peers, keep the source's deadline; returns when the last bytes are out."""
        outbox = self.outbox
        next_beat = trio.current_time() + self._limits.heartbeat
        stuck_at = -1
        while not outbox.sealed:
            self._tick.at(min(next_beat, self._source.deadline))
            await self._tick.wait()
            now = trio.current_time()
            if now >= self._source.deadline and not outbox.sealed:
                try:
                    self._source.on_deadline()
                except Exception:
                    log.exception("a deadline failed; its stream is closed")
                    self.close(CloseCode.INTERNAL_ERROR, "internal error")
            if now >= next_beat and not outbox.sealed:
                # A socket that was full at the last beat, and has taken no message since, has no reader.
                if outbox.blocked and outbox.sent_messages == stuck_at:
                    self.abort(CloseCode.HEARTBEAT_MISSED)
                    return
                stuck_at = outbox.sent_messages if outbox.blocked else -1
                outbox.put_urgent(_BEAT)
                next_beat = now + self._limits.heartbeat
            self._flusher.flush()
        with trio.move_on_at(self._end_at):
            await outbox.emptied()
        if not outbox.broken:
            half_close(self._sock)
