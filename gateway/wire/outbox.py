"""The bounded queue in front of one socket, and the flusher that empties many of them.

How a frame gets out. Whoever has something to say appends a finished frame to an outbox and never waits. An
outbox that was empty is thereby *dirty* and stands in the flusher's list; at the end of a read chunk, a
broker batch or a REST call the flusher joins what each dirty outbox holds and makes one non-blocking ``send``
of it. What is more than a piece (``_MAX_SEND``) goes out piece by piece, and the outbox stands in line again
for each. Only when the kernel takes less than it was given is the connection's writer task begun or woken. It
waits until the socket is writable and makes the outbox dirty again, so that slow sockets are written in turns
as well. So
a healthy connection needs no task to write, a slow one delays nobody, and events that come
faster than the sockets are flushed travel several per ``send`` (with 10 per ``send`` seven times as many a
second as with one).

A frame that finds the outbox empty is kept in ``alone``, not in ``queue``: nearly always it is
flushed before the next one comes, and to fill and empty a list means to allocate and free its
array, 0.4 µs of the 0.6 that a delivery costs here (beside 4.5 for the ``send``).

Invariants:
- ``size`` is the bytes in ``alone`` and ``queue``, of which at most one holds anything.
- An outbox that is not empty is in the dirty list, or its writer is awake: never neither.
- Frames leave in the order of the queue, each whole: what the kernel took of a frame is
  cut off its front, and such a torn frame stays at the head until its rest is out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

import trio

from gateway.wire.flusher import Flusher
from gateway.wire.shares import Share
from gateway.wire.signal import Signal
from gateway.wire.sockets import WireSocket

__all__ = ["Frame", "Outbox"]

Frame: TypeAlias = bytes | memoryview

_MAX_SEND: Final = 64 * 1024
"""Bytes of one ``send``: over TLS 0.1 ms, for which everybody else waits. The rest has its next turn."""

_BACKLOG_MESSAGES: Final = 64
_BACKLOG_BYTES: Final = 64 * 1024
"""What may wait behind a full socket before a place that may lag does so (``gateway/hub/lag.py``)."""

_RESERVE_MESSAGES: Final = 256
_RESERVE_BYTES: Final = 256 * 1024
"""Room above an outbox's bounds that only urgent frames may use."""


class Outbox:
    """Frames waiting for one connection, bounded in messages and bytes."""

    __slots__ = (
        "_final",
        "_flusher",
        "_joined",
        "_resumed",
        "_slot",
        "_tally",
        "_urgent",
        "alone",
        "blocked",
        "broken",
        "drained",
        "emptying",
        "max_bytes",
        "max_messages",
        "on_blocked",
        "on_full",
        "queue",
        "sealed",
        "share",
        "size",
        "sock",
        "torn",
        "writer",
    )

    stamped: ClassVar[bool] = False
    """Each frame is completed with what is this connection's own (``gateway/wire/stamped.py``)."""

    def __init__(
        self, flusher: Flusher, sock: WireSocket | None, *, max_messages: int, max_bytes: int
    ) -> None:
        """``sock`` is non-blocking; with None (memory) the writer task sends everything."""
        self.share: Share = flusher.share
        self.sock = sock
        if sock is None:
            self.share.slow.add(self)
        self._flusher = flusher
        self._tally = flusher.tally
        self._slot = self._tally.open()
        self._final = 0
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._urgent = 0
        self._joined = 0
        self.alone: bytes | None = None
        self.queue: list[Frame] = []
        self.size = 0
        self.torn = False
        self.blocked = False
        self._resumed = False
        """The socket has room again, and what waited for it is not out yet."""
        self.sealed = False
        self.broken = False
        self.writer: Signal | None = None
        """Wakes the writer task, once there is one."""
        self.on_blocked: Callable[[], None] | None = None
        """Called without a writer task when frames have to wait for the socket: starts one, or sees to it
        that they are taken."""
        self.drained: Signal | None = None
        """Set, when somebody waits for it, each time that a blocked outbox has become empty."""
        self.emptying: Signal | None = None
        self.on_full: Callable[[], None] | None = None

    @property
    def slot(self) -> int:
        """Where this outbox's messages are counted; see :class:`~gateway.wire.shares.Tally`."""
        return self._slot

    @property
    def sent_messages(self) -> int:
        """Frames that went out, also after the end."""
        return self._final if self._slot < 0 else self._tally.messages[self._slot]

    def discount(self) -> None:
        """What was just put is no message (the answer to the upgrade request)."""
        self._tally.messages[self._slot] -= 1

    def move(self, share: Share) -> None:
        """Stand in another share from now on."""
        if self in self.share.slow:
            self.share.slow.discard(self)
            share.slow.add(self)
        self.share = share

    @property
    def congested(self) -> bool:
        """The socket is full and enough waits behind it: more would only grow old here."""
        return self.blocked and (len(self.queue) >= _BACKLOG_MESSAGES or self.size >= _BACKLOG_BYTES)

    def refuses(self, size: int) -> bool:
        """``size`` bytes do not fit, or would only grow old here; sends first what is in their way."""
        if not self.blocked and self.size >= _BACKLOG_BYTES:
            self.flush()
        while not (self.blocked or self._fits(size)):
            self.flush()
        return self.blocked and (self.congested or not self._fits(size))

    def _fits(self, size: int) -> bool:
        # A quarter of the queue is left to what cannot come later: replies, and rooms that do not lag.
        return not self.size or (
            4 * self.waiting < 3 * self.max_messages and 4 * (self.size + size) <= 3 * self.max_bytes
        )

    async def room(self) -> None:
        """Wait until the socket has taken everything; only one task may wait."""
        self.drained = self.drained or Signal()
        while self.blocked:
            await self.drained.wait()

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False when the outbox is sealed or full (then ``on_full`` was called)."""
        share = self.share
        if share.broadcasts:
            share.catch_up(self)
        if self.size or self.sealed:
            return self.append(frame)
        self.alone = frame  # as ``append`` does; a call less for nearly every reply
        self.size = len(frame)
        share.mark(self)
        return True

    def settle(self) -> None:
        """Take over what waits for this outbox in broadcasts."""
        if self.share.broadcasts:
            self.share.catch_up(self)

    def append(self, frame: bytes) -> bool:
        """As :meth:`put`, for a share without broadcasts, and for a broadcast's own frames."""
        if self.sealed:
            return False
        if not self.size:
            self.alone = frame
            self.size = len(frame)
            self.share.mark(self)
            return True
        queue = self.queue
        if self.alone is not None:
            self._unfold()
        if (
            len(queue) >= self.max_messages or self.size + len(frame) > self.max_bytes
        ) and not self._make_room(self.max_messages, self.max_bytes - len(frame)):
            return False
        queue.append(frame)
        self.size += len(frame)
        return True

    def take(self) -> list[Frame]:
        """Take out all that is queued, which counts as sent: of an outbox without socket and writer."""
        self._unfold()
        frames, self.queue = self.queue, []
        self._tally.messages[self._slot] += len(frames)
        self.share.sent_bytes += self.size
        self.size = self._urgent = 0
        self.blocked = False
        return frames

    def _unfold(self) -> None:
        if self.alone is not None:
            self.queue.append(self.alone)
            self.alone = None

    @property
    def waiting(self) -> int:
        """Frames that are queued."""
        return len(self.queue) + (self.alone is not None)

    @property
    def unsent(self) -> int:
        """As ``waiting``, with each frame counted that a stream is sending with others as one piece."""
        return self.waiting + self._joined

    def put_urgent(self, frame: bytes) -> bool:
        """Queue a small frame (pong, critical event) before the ordinary ones and behind earlier urgent ones.

        It may use a reserve above the bounds, so that what is critical reaches a client whose queue is
        full. False as for :meth:`put`: a peer that asks for pongs and never reads them fills its outbox.
        """
        if self.sealed:
            return False
        self._unfold()
        queue = self.queue
        if not queue:
            self.share.mark(self)
        else:
            messages = self.max_messages + _RESERVE_MESSAGES
            size = self.max_bytes + _RESERVE_BYTES - len(frame)
            if (len(queue) >= messages or self.size > size) and not self._make_room(messages, size):
                return False
        queue.insert(self._urgent + self.torn, frame)
        self.size += len(frame)
        self._urgent += 1
        return True

    def _make_room(self, messages: int, size: int) -> bool:
        # One chunk can hold more commands than the queue has places for their answers: such a
        # client is fast, not slow, and only a socket that takes nothing is full.
        while self.size and not self.blocked and (self.size > size or len(self.queue) >= messages):
            self.flush()
        if self.sealed:
            return False
        if self.queue and (len(self.queue) >= messages or self.size > size):
            if self.on_full is not None:
                self.on_full()
            return False
        return True

    def seal(self, last: bytes, *, discard: bool = False) -> None:
        """Queue a Close and refuse what comes later; ``discard`` drops what waits and is not urgent."""
        if self.sealed:
            return
        if self.share.broadcasts:
            self.share.catch_up(self)
        self._unfold()
        if discard:
            del self.queue[self.torn + self._urgent :]
            self.size = sum(map(len, self.queue))
        if not self.queue:
            self.share.mark(self)
        self.queue.append(last)
        self.size += len(last)
        self.shut()

    def shut(self) -> None:
        """Take nothing more; what is queued still goes out."""
        self.sealed = True
        self.share.slow.add(self)

    def end(self) -> None:
        """The socket is closed."""
        self.break_off()
        self.share.slow.discard(self)
        if self._slot >= 0:
            self._final = self._tally.close(self._slot)
            self._slot = -1

    def break_off(self) -> None:
        """The socket is of no more use: drop everything."""
        self.broken = True
        self.shut()
        self.alone = None
        self.queue.clear()
        self.size = self._urgent = 0
        self.torn = self.blocked = False
        if self.emptying is not None:
            self.emptying.set()

    def flush(self) -> None:
        """Send what the kernel takes without waiting; wake the writer for the rest. Never raises."""
        if self.blocked or not self.size:
            return
        sock = self.sock
        if sock is None:
            self._block()
            return
        queue = self.queue
        data: Frame | None = self.alone
        if self.size > _MAX_SEND:
            data = self._front()
        elif data is None:
            data = queue[0] if len(queue) == 1 else b"".join(queue)
        try:
            taken = sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.break_off()
            return
        if taken != self.size:
            self._unfold()
            self._keep_rest(taken)
            if taken < len(data):
                self._block()
            else:  # a piece of it is out, and there is room for more
                self._resumed = True
                self.share.mark(self)
                self._flusher.wake()
        elif self.alone is not None:
            self.alone = None
            self.size = 0
            self._tally.messages[self._slot] += 1
            self.share.sent_bytes += taken
        else:
            self._tally.messages[self._slot] += len(queue)
            self.share.sent_bytes += taken
            queue.clear()
            self.size = self._urgent = 0
            self.torn = False
            if self._resumed:
                self._recovered()

    def keep(self, frames: list[bytes], taken: int) -> None:
        """Queue ``frames`` in an empty outbox, of which the kernel took ``taken`` bytes and no more."""
        self.queue += frames
        self.size = sum(map(len, frames))
        self._keep_rest(taken)
        self._block()

    def _block(self) -> None:
        """The writer task has to go on."""
        self.blocked = True
        self.share.slow.add(self)
        if self.writer is not None:
            self.writer.set()
        elif self.on_blocked is not None:
            self.on_blocked()

    def _front(self) -> Frame:
        """The first ``_MAX_SEND`` bytes."""
        self._unfold()
        head = memoryview(self.queue[0])
        if len(head) >= _MAX_SEND:
            return head[:_MAX_SEND]
        size = count = 0
        while size < _MAX_SEND:
            size += len(self.queue[count])
            count += 1
        return memoryview(b"".join(self.queue[:count]))[:_MAX_SEND]

    def _keep_rest(self, taken: int) -> None:
        self.size -= taken
        self.share.sent_bytes += taken
        whole = 0
        for frame in self.queue:
            if taken < len(frame):
                break
            taken -= len(frame)
            whole += 1
        del self.queue[:whole]
        self._tally.messages[self._slot] += whole
        # A torn head is not one of the urgent frames counted behind it.
        self._urgent = max(0, self._urgent + (self.torn and whole > 0) - whole)
        if whole:
            self.torn = False
        if taken:
            if not self.torn and self._urgent:
                self._urgent -= 1
            # A large frame goes out in many pieces, and must not be copied for each of them.
            head = self.queue[0]
            self.queue[0] = memoryview(head)[taken:] if len(head) > _MAX_SEND else head[taken:]
            self.torn = True

    async def write_socket(self, sock: WireSocket) -> None:
        """The writer task of a socket: when there is room again, the outbox stands in its share once more."""
        self.writer = Signal()
        while True:
            if self.blocked:
                await trio.lowlevel.wait_writable(sock)
            if self.blocked:  # it may have broken off meanwhile
                self.blocked = False
                self._resumed = True
                self.share.mark(self)
                self._flusher.wake()
            await self.writer.wait()

    async def write_stream(self, stream: trio.abc.SendStream) -> None:
        """The writer task of any other stream."""
        self.writer = Signal()
        while True:
            if self.blocked:
                await self._drain_stream(stream)
            await self.writer.wait()

    async def emptied(self) -> None:
        """Send all that is queued and wait until it is out, or the socket is gone; at the end, once."""
        self.flush()
        if self.size:
            self.emptying = Signal()
            while self.size:
                await self.emptying.wait()

    def _tell(self) -> None:
        for waiting in (self.drained, self.emptying):
            if waiting is not None:
                waiting.set()

    def _recovered(self) -> None:
        """Everything is out that waited for the socket."""
        self._resumed = False
        if not self.sealed:
            self.share.slow.discard(self)
        self._tell()

    async def _drain_stream(self, stream: trio.abc.SendStream) -> None:
        while self.size:
            self._unfold()
            # What is being sent stays at the head, and counted, until it is out.
            count = len(self.queue)
            data = b"".join(self.queue)
            self.queue[:] = [data]
            self._joined = count - 1
            self._urgent = 0
            self.torn = True
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.break_off()
                return
            if self.broken:
                return
            self.torn = False
            del self.queue[0]
            self._joined = 0
            self.size -= len(data)
            self._tally.messages[self._slot] += count
            self.share.sent_bytes += len(data)
        self.blocked = False
        self._tell()
