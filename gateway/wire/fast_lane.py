"""The fast lane: whole frames straight out of the chunk that was read, many at a time, without a task switch.

Nothing here waits. What has to wait (a command's work, the slow lane, the end) is left to the
connection's reader task, which is called for it. The first frame that is not a whole, unfragmented,
masked one of less than 64 KiB makes the connection ``foreign``: the frames before it are handled, and the
rest goes to trio-websocket for good (``gateway/wire/slow_lane.py``).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable
from typing import Final, Protocol

from gateway.wire.engine import Engine
from gateway.wire.outbox import Outbox
from gateway.wire.signal import Signal
from protocol.errors import CloseCode
from protocol.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_frame,
    cut_frames,
    cut_message,
    parse_close,
    server_frame,
)

__all__ = ["CHUNK", "FastLane", "Handler", "WireLimits"]

log = logging.getLogger(__name__)

CHUNK: Final = 65536
"""Bytes read at a time."""
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


class FastLane:
    """The part of a connection that handles what was read; the reader task is :class:`WireConnection`'s."""

    __slots__ = (
        "_attention",
        "_backlog",
        "_finished",
        "_foreign",
        "_heard",
        "_parted",
        "_pending",
        "_pieces",
        "_pump",
        "_sock",
        "_work",
        "armed",
        "close_code",
        "handler",
        "limits",
        "outbox",
        "queued",
        "received_bytes",
        "received_messages",
    )

    def __init__(self, engine: Engine, limits: WireLimits, sock: socket.socket | None, unread: bytes) -> None:
        self._sock = sock
        self._pump = engine.pump if sock is not None else None
        self.limits = limits
        self.outbox = Outbox(
            engine.flusher, sock, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.outbox.on_full = self._too_slow
        self.handler: Handler
        self._pending = unread
        """What was read and is no whole frame yet."""
        self._pieces = 0
        self._backlog: list[tuple[int, bytes]] | None = None
        """Frames that were cut and wait for their turn."""
        self._work: Awaitable[None] | None = None
        """What the handler returned: the reader awaits it before the next message is handled."""
        self._foreign = False
        self._finished = False
        """Nothing more is to be read."""
        self._heard = True
        """Something has come since the last ping."""
        self._parted = False
        """The peer's Close has come."""
        self._attention = Signal()
        """Wakes the reader."""
        self.armed = False
        self.queued = False
        self.close_code: int = 1006
        self.received_messages = 0
        self.received_bytes = 0

    def close(
        self, code: int, reason: str = "", *, discard: bool = False, flush_timeout: float = 0.0
    ) -> None:
        """See ``WireConnection.close``."""
        raise NotImplementedError

    def on_readable(self) -> None:
        """Read one chunk and handle what is in it (called by the pump); contains every error."""
        assert self._sock is not None
        if self._backlog is not None:
            self._resume()
            return
        try:
            chunk = self._sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._finish()
            return
        self._heard = True
        self.received_bytes += len(chunk)
        message = None if self._pending else cut_message(chunk)
        if message is None:
            self._feed(chunk)
            return
        # As ``_handle`` does for many: one message in a chunk is the usual, and each step counts.
        try:
            self._work = self._deliver(message[1], message[0] == TEXT)
        except Exception:
            self._handler_failed()
        else:
            if self._work is not None:
                self._call_reader()

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
