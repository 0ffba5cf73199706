"""The bounded queue in front of one socket, and the flusher that empties many of them.

How a frame gets out. Whoever has something to say appends a finished frame to an outbox
and never waits. An outbox that was empty is thereby *dirty* and stands in the flusher's
list; at the end of a read chunk, a broker batch or a REST call the flusher joins what each
dirty outbox holds and makes one non-blocking ``send`` of it. Only when the kernel takes
less than all is the connection's writer task woken, which waits until the socket is
writable and goes on. So an idle or healthy connection costs no task switch to write, a
slow one delays nobody, and events that come faster than the sockets are flushed travel
several per ``send`` (with 10 per ``send`` seven times as many a second as with one).

Invariants:
- ``size`` is the bytes in ``queue``; ``queue`` is empty exactly when ``size`` is 0.
- A non-empty queue is in the dirty list, or its writer is awake: never neither.
- Frames leave in the order of the queue, each whole: what the kernel took of a frame is
  cut off its front, and such a torn frame stays at the head until its rest is out.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from gateway.wire.signal import Signal

__all__ = ["Flusher", "Outbox"]

_MAX_SEND: Final = 256 * 1024
"""Bytes joined for one ``send``: more than a socket buffer takes is copied for nothing."""


class Outbox:
    """Frames waiting for one connection, bounded in messages and bytes."""

    __slots__ = (
        "_flusher",
        "_max_bytes",
        "_max_messages",
        "_send",
        "_urgent",
        "blocked",
        "broken",
        "on_full",
        "queue",
        "sealed",
        "sent_bytes",
        "sent_messages",
        "size",
        "torn",
        "writer",
    )

    def __init__(
        self, flusher: Flusher, sock: socket.socket | None, *, max_messages: int, max_bytes: int
    ) -> None:
        """``sock`` is non-blocking; with None (TLS, memory) the writer task sends everything."""
        self._flusher = flusher
        self._send: Callable[[bytes], int] | None = None if sock is None else sock.send
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._urgent = 0
        self.queue: list[bytes] = []
        self.size = 0
        self.torn = False
        self.blocked = False
        self.sealed = False
        self.broken = False
        self.writer = Signal()
        self.on_full: Callable[[], None] | None = None
        self.sent_messages = 0
        self.sent_bytes = 0

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False when the outbox is sealed or full (then ``on_full`` was called)."""
        queue = self.queue
        if self.sealed:
            return False
        if not queue:
            self._flusher.dirty.append(self)
        elif len(queue) >= self._max_messages or self.size + len(frame) > self._max_bytes:
            if self.on_full is not None:
                self.on_full()
            return False
        queue.append(frame)
        self.size += len(frame)
        return True

    def put_urgent(self, frame: bytes) -> None:
        """Queue a small frame (error, pong) before the ordinary ones and behind earlier urgent ones.

        Only the same bounds hold it back: a peer that asks for pongs and never reads them fills its outbox.
        """
        place = self._urgent + self.torn
        if place >= len(self.queue):
            self.put(frame)
        elif not self.sealed:
            if len(self.queue) >= self._max_messages or self.size + len(frame) > self._max_bytes:
                if self.on_full is not None:
                    self.on_full()
                return
            self.queue.insert(place, frame)
            self.size += len(frame)
            self._urgent += 1

    def seal(self, last: bytes, *, discard: bool = False) -> None:
        """Queue the last frame (a Close) and refuse all later ones; ``discard`` drops what still waits."""
        if self.sealed:
            return
        if discard:
            del self.queue[int(self.torn) :]
            self.size = sum(map(len, self.queue))
            self._urgent = 0
        if not self.queue:
            self._flusher.dirty.append(self)
        self.queue.append(last)
        self.size += len(last)
        self.sealed = True

    def break_off(self) -> None:
        """The socket is gone: drop everything."""
        self.sealed = self.broken = True
        self.queue.clear()
        self.size = self._urgent = 0
        self.torn = self.blocked = False

    def flush(self) -> None:
        """Send what the kernel takes without waiting; wake the writer for the rest. Never raises."""
        queue = self.queue
        if self.blocked or not queue:
            return
        send = self._send
        if send is None:
            self.blocked = True
            self.writer.set()
            return
        data = queue[0] if len(queue) == 1 else b"".join(queue)
        if len(data) > _MAX_SEND:
            data = data[:_MAX_SEND]
        try:
            taken = send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.break_off()
            return
        if taken == self.size:
            self.sent_messages += len(queue)
            self.sent_bytes += taken
            queue.clear()
            self.size = self._urgent = 0
            self.torn = False
        else:
            self._keep_rest(taken)
            self.blocked = True
            self.writer.set()

    def _keep_rest(self, taken: int) -> None:
        self.size -= taken
        self.sent_bytes += taken
        whole = 0
        for frame in self.queue:
            if taken < len(frame):
                break
            taken -= len(frame)
            whole += 1
        del self.queue[:whole]
        self.sent_messages += whole
        # A torn head is not one of the urgent frames counted behind it.
        self._urgent = max(0, self._urgent + (self.torn and whole > 0) - whole)
        if whole:
            self.torn = False
        if taken:
            if not self.torn and self._urgent:
                self._urgent -= 1
            self.queue[0] = self.queue[0][taken:]
            self.torn = True

    async def write_socket(self, sock: socket.socket) -> None:
        """The writer task of a plain socket: waits for room, for as long as something is queued."""
        while True:
            await self.writer.wait()
            await self._drain_socket(sock)

    async def write_stream(self, stream: trio.abc.SendStream) -> None:
        """The writer task of any other stream."""
        while True:
            await self.writer.wait()
            await self._drain_stream(stream)

    async def drain(self, sock: socket.socket | None, stream: trio.abc.SendStream | None) -> None:
        """Send all that is queued; for the end of a connection, when its writer task is gone."""
        if sock is not None:
            self.flush()
            await self._drain_socket(sock)
        elif stream is not None and not self.torn:
            await self._drain_stream(stream)

    async def _drain_socket(self, sock: socket.socket) -> None:
        while self.blocked:
            await trio.lowlevel.wait_writable(sock)
            self.blocked = False
            self.flush()

    async def _drain_stream(self, stream: trio.abc.SendStream) -> None:
        while self.queue:
            # What is being sent stays at the head, and counted, until it is out.
            count = len(self.queue)
            data = b"".join(self.queue)
            self.queue[:] = [data]
            self._urgent = 0
            self.torn = True
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.break_off()
                return
            self.torn = False
            del self.queue[0]
            self.size -= len(data)
            self.sent_messages += count
            self.sent_bytes += len(data)
        self.blocked = False


class Flusher:
    """Empties dirty outboxes in slices of time, so that a large fan-out never holds the loop for long."""

    def __init__(self, *, slice_seconds: float = 0.004) -> None:
        self.dirty: list[Outbox] = []
        self._slice = slice_seconds
        self._signal = Signal()

    def flush(self) -> None:
        """Flush for one slice; what is left is done by :meth:`run` after other tasks had their turn."""
        dirty = self.dirty
        if not dirty:
            return
        deadline = time.perf_counter() + self._slice
        done = 0
        for outbox in dirty:
            outbox.flush()
            done += 1
            if not done & 31 and time.perf_counter() > deadline:
                break
        del dirty[:done]
        if dirty:
            self._signal.set()

    def wake(self) -> None:
        """Ask for a flush soon, from outside the read path."""
        if self.dirty:
            self._signal.set()

    async def run(self) -> None:
        """Flush whenever woken, a slice at a time."""
        while True:
            await self._signal.wait()
            while self.dirty:
                self.flush()
                await trio.lowlevel.checkpoint()
