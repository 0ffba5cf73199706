"""A connection in memory, and what can go wrong with one.

Two pipes, one for each direction. A pipe holds what was sent and not yet received, up to
``capacity`` bytes, as a socket's buffers do; when it is full the sender waits. It can be
stalled (nothing arrives any more, and nothing says why), slowed down, and cut. All waiting is
Trio's, so on a virtual clock a delay costs no time.
"""

from __future__ import annotations

import socket
from collections import deque

import trio

__all__ = ["Link", "LinkEnd", "Pipe"]


class Pipe:
    """One direction of a link. Bytes arrive in order, or not at all."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.delay = 0.0
        """Seconds on the way, for what is sent from now on."""
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._stalled = False
        self._ended = False
        self._broken = False
        self._changed = trio.lowlevel.ParkingLot()

    def stall(self) -> None:
        """Let nothing arrive until :meth:`resume`; what is sent piles up, and then the sender waits."""
        self._stalled = True

    def resume(self) -> None:
        """Let everything arrive again."""
        self._stalled = False
        self._changed.unpark_all()

    def cut(self) -> None:
        """Lose what is on the way; both sides get ``BrokenResourceError`` from now on."""
        self._broken = True
        self._chunks.clear()
        self._size = 0
        self._changed.unpark_all()

    def end(self) -> None:
        """The sender says nothing more: behind what is on the way comes the end."""
        self._ended = True
        self._changed.unpark_all()

    @property
    def waiting(self) -> int:
        """Bytes on the way."""
        return self._size

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Put everything on the way. Raises ``BrokenResourceError`` and ``ClosedResourceError``."""
        await trio.lowlevel.checkpoint()
        left = memoryview(bytes(data))
        while left:
            if self._broken:
                raise trio.BrokenResourceError("the link is cut")
            if self._ended:
                raise trio.ClosedResourceError
            chunk = bytes(left[: self.capacity - self._size])
            if chunk:
                self._chunks.append((trio.current_time() + self.delay, chunk))
                self._size += len(chunk)
                left = left[len(chunk) :]
                self._changed.unpark_all()
            else:
                await self._changed.park()

    async def receive(self, max_bytes: int) -> bytes:
        """What has arrived, at most ``max_bytes`` of it; empty at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._broken:
                raise trio.BrokenResourceError("the link is cut")
            if self._chunks and not self._stalled:
                due, chunk = self._chunks.popleft()
                if due <= trio.current_time():
                    if len(chunk) > max_bytes:
                        self._chunks.appendleft((due, chunk[max_bytes:]))
                    self._size -= min(len(chunk), max_bytes)
                    self._changed.unpark_all()
                    return chunk[:max_bytes]
                self._chunks.appendleft((due, chunk))
                with trio.move_on_at(due):
                    await self._changed.park()
            elif self._ended and not self._chunks and not self._stalled:
                return b""
            else:
                await self._changed.park()


class _NoSocket:
    """Who asks a stream for its socket wants to know addresses (hypercorn)."""

    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return "memory", 0

    getsockname = getpeername


class LinkEnd(trio.abc.HalfCloseableStream):
    """One side's stream."""

    socket = _NoSocket()

    def __init__(self, link: Link, sends: Pipe, receives: Pipe) -> None:
        self.link = link
        self._sends = sends
        self._receives = receives
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await self._sends.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        return await self._receives.receive(65536 if max_bytes is None else max_bytes)

    async def send_eof(self) -> None:
        self._sends.end()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._sends.end()
            self._receives.cut()
        await trio.lowlevel.checkpoint()


class Link:
    """One connection between a client and a node, in memory."""

    def __init__(self, user: str | None = None, capacity: int = 65536) -> None:
        """``user`` is whose it is, if that is known; ``capacity`` bytes fit on the way in each direction."""
        self.user = user
        self.down = Pipe(capacity)
        """From the node to the client."""
        self.up = Pipe(capacity)
        """From the client to the node."""
        self.client = LinkEnd(self, self.up, self.down)
        self.node = LinkEnd(self, self.down, self.up)

    def cut(self) -> None:
        """Break the connection without a word, as when a cable is pulled."""
        self.down.cut()
        self.up.cut()
