"""One task that waits for all sockets: the shared readiness of every reader.

The obvious reader is a task that calls ``trio.lowlevel.wait_readable`` and then ``recv``.
Each such wait costs an ``epoll_ctl``, a trap into the scheduler and a task switch, about
10 µs, which is more than decoding and answering a command takes. So the sockets of all
connections stand in one epoll instance of ours, level-triggered and registered once; that
instance is itself a file descriptor, and one task waits for *it* with ``wait_readable``.
When it wakes, it reads every socket that has something, handles the messages on the spot,
flushes, and goes back to wait. One wait then serves all sockets that became readable
meanwhile: the busier the gateway, the cheaper each read.

The readers stay what they are, tasks in their connection's nursery: a reader arms its
socket here and sleeps until there is something for which it is needed (a command that has to
wait, a frame for the slow lane, the end). Errors of one connection are contained in its
``on_readable``.

Fairness. What epoll reports is sorted into the shares of the organisations. The share that has used
the least time is read, for a turn of ``_TURN`` seconds at most; then the flusher writes for a slice,
but not for shares that have used more than one that waits to be read; then epoll is asked again. A
connection that has sent a thousand commands in one chunk handles them for as long as its turn lasts
and goes to the back of its share. So whatever one organisation sends, another one's command waits for
one turn and one slice.

Needs ``select.epoll`` (Linux). Elsewhere, and for streams that are not plain sockets, the
reader task waits by itself: :meth:`Pump.create` then returns None.
"""

from __future__ import annotations

import math
import select
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

from gateway.wire.flusher import Flusher
from gateway.wire.shares import FairQueue, Readable, Share

__all__ = ["Pump", "Socket", "Watched"]

_BATCH: Final = 256
_TURN: Final = 0.0005
"""Seconds of reading that a share of weight 1 gets in one round."""
_HOLD: Final = 0.002
"""Seconds after which the other tasks of the loop get their turn."""


class Socket(Protocol):
    """What can be watched."""

    def fileno(self) -> int:
        """Its descriptor."""


class Shared(Protocol):
    """What stands in a share: the outbox of a connection."""

    @property
    def share(self) -> Share:
        """Its place."""


class Watched(Readable, Protocol):
    """A connection's reader, as the pump sees it."""

    @property
    def outbox(self) -> Shared:
        """Its share is the connection's as well."""


class Pump:
    """Watches plain sockets and calls back when they are readable."""

    def __init__(self, flusher: Flusher) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the pump needs epoll")
        self._flusher = flusher
        self._epoll = select.epoll()
        self._readers: dict[int, Watched] = {}
        self._shares = FairQueue(flusher)

    @classmethod
    def create(cls, flusher: Flusher) -> Pump | None:
        """Return a pump, or None where the platform has no epoll."""
        return cls(flusher) if sys.platform == "linux" else None

    def __len__(self) -> int:
        return len(self._readers)

    def arm(self, sock: Socket, reader: Watched) -> None:
        """Call ``reader.on_readable`` whenever ``sock`` can be read or has ended. Raises OSError."""
        fd = sock.fileno()
        self._epoll.register(fd, select.EPOLLIN)  # first, because it may fail
        self._readers[fd] = reader
        reader.armed = True

    def disarm(self, sock: Socket, reader: Watched) -> None:
        """Stop watching ``sock``; nothing happens if it is not watched."""
        if reader.armed:
            reader.armed = False
            fd = sock.fileno()
            del self._readers[fd]
            if not self._epoll.closed:
                self._epoll.unregister(fd)

    def queue(self, reader: Watched) -> None:
        """Let ``reader`` have another turn although its socket may bring nothing new."""
        if not reader.queued:
            reader.queued = True
            share = reader.outbox.share
            if not share.ready:
                self._shares.join(share)
            share.ready.append(reader)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                await self._serve()
        finally:
            # When everything is cancelled at once, connections may still disarm after this.
            self._epoll.close()

    async def _serve(self) -> None:
        """Serve until nothing more is to be read."""
        poll = self._epoll.poll
        readers = self._readers
        shares = self._shares
        flusher = self._flusher
        active = flusher.active
        clock = time.perf_counter
        started = clock()
        while True:
            for fd, _mask in poll(0, _BATCH):
                # As ``queue`` does; a call for each would be a tenth of what reading takes.
                reader = readers[fd]
                if not reader.queued:
                    reader.queued = True
                    share = reader.outbox.share
                    if not share.ready:
                        shares.join(share)
                    share.ready.append(reader)
            if not shares and not active:
                return
            if shares:
                self._read_share(shares.next(), clock)
            flusher.serve(shares.least() if shares else math.inf)
            if clock() - started > _HOLD:
                await trio.lowlevel.checkpoint()
                started = clock()

    def _read_share(self, share: Share, clock: Callable[[], float]) -> None:
        ready = share.ready
        begun = now = clock()
        while ready and now - begun < _TURN:
            reader = ready.popleft()
            reader.queued = False
            # Another one's message, or its own last one, may have ended it meanwhile.
            if reader.armed:
                reader.on_readable()
            now = clock()
        share.used += (now - begun) / share.weight
        if ready:
            self._shares.join(share)
