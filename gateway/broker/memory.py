"""The broker of a single node: everything in this process's memory, gone with it."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import trio

from gateway.broker.base import Done, Event, HistoryPage, Position, Since
from gateway.broker.bounds import Bounds, HistoryBounds
from gateway.config.settings import HistorySettings

__all__ = ["MemoryBroker"]

_EVENT_OVERHEAD = 400
"""Bytes that a kept event takes beside its data (measured with tracemalloc)."""
_SWEEP = 5.0
_MEMORIES = 100_000
_MEMORY_BYTES = 64 * 2**20
"""Values kept for ``recall``, and their bytes; the oldest goes first."""


class _Stream:
    """One channel: its order, and its last events."""

    __slots__ = ("bounds", "bytes", "epoch", "events", "mids", "seq")

    def __init__(self, epoch: str, bounds: Bounds) -> None:
        self.epoch = epoch
        self.bounds = bounds
        self.seq = 0
        self.events: deque[Event] = deque()
        self.bytes = 0
        self.mids: dict[str, int] = {}

    def drop_oldest(self) -> None:
        event = self.events.popleft()
        self.bytes -= event.size + _EVENT_OVERHEAD
        self.mids.pop(event.mid, None)

    def trim(self) -> None:
        """Drop what is too old or too much."""
        bounds = self.bounds
        while len(self.events) > bounds.messages or self.bytes > bounds.bytes:
            self.drop_oldest()
        oldest = (time.time() - bounds.age) * 1000
        while self.events and self.events[0].ts < oldest:
            self.drop_oldest()


class MemoryBroker:
    """A :class:`~gateway.broker.base.Broker` that delivers and calls ``done`` inside ``submit``."""

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._bounds = HistoryBounds(settings)
        self._streams: dict[str, _Stream] = {}
        """Of channels with a member, or in which something was published: asking leaves nothing behind."""
        self._idle: OrderedDict[str, None] = OrderedDict()
        """Channels without a member on this node, the longest unused first."""
        self.bytes = 0
        """Of all kept events, with what they take beside their data."""
        self._key = secrets.token_bytes(16)
        self._forgotten = 0
        self._subscribed: set[str] = set()
        self._memory: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._memory_bytes = 0
        self.deliver: Callable[[Event], None] = lambda event: None
        # Never called: nothing is lost here, and nothing happens but inside the calls of others.
        self.lost: Callable[[str, int, int], None] = lambda channel, first, last: None
        self.reset: Callable[[str, str, int], None] = lambda channel, epoch, seq: None
        self.settled: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Forget what has become too old, until cancelled."""
        while True:
            await trio.sleep(_SWEEP)
            now = trio.current_time()
            # All live about equally long, so the front is where the expired ones are.
            while self._memory and next(iter(self._memory.values()))[0] <= now:
                self._forget(next(iter(self._memory)))
            for number, stream in enumerate(list(self._streams.values())):
                self._trim(stream)
                if number % 1000 == 999:
                    await trio.lowlevel.checkpoint()

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        if not event.ordered:
            self.deliver(event)
            done(Position(0, "", event.mid))
            return
        stream = self._stream(event.channel)
        known = stream.mids.get(event.mid)
        if known is not None:
            done(Position(known, stream.epoch, event.mid))
            return
        stream.seq += 1
        event.seq = stream.seq
        event.epoch = stream.epoch
        if stream.bounds.messages:
            self._keep(event, stream)
        self.deliver(event)
        done(Position(event.seq, event.epoch, event.mid))

    async def subscribe(self, channel: str) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._subscribed.add(channel)
        self._stream(channel)
        self._idle.pop(channel, None)

    def unsubscribe(self, channel: str) -> None:
        """See :class:`~gateway.broker.base.Broker`. The channel's order is kept: a member may come back."""
        self._subscribed.discard(channel)
        stream = self._streams.get(channel)
        if stream is not None and not stream.seq:
            del self._streams[channel]
        elif stream is not None:
            self._rest(channel)

    async def history(self, channel: str, *, since: Since | None, limit: int) -> HistoryPage:
        """See :class:`~gateway.broker.base.Broker`."""
        stream = self._streams.get(channel)
        if stream is None:
            epoch = self._new_epoch(channel)
            return HistoryPage([], epoch, 0, more=False, complete=since in (None, Since(epoch, 0)))
        if channel in self._idle:
            self._idle.move_to_end(channel)
        self._trim(stream)
        kept = stream.events
        first = kept[0].seq or 0 if kept else stream.seq + 1
        if since is None:
            start = max(0, len(kept) - limit)
            complete = True
        elif since.epoch == stream.epoch and since.seq <= stream.seq:
            start = max(0, since.seq + 1 - first)
            complete = since.seq + 1 >= first
        else:
            start = 0
            complete = False
        events = list(itertools.islice(kept, start, start + limit))
        return HistoryPage(
            events, stream.epoch, stream.seq, more=start + len(events) < len(kept), complete=complete
        )

    def remember(self, key: str, value: bytes, ttl: float) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._forget(key)
        self._memory[key] = (trio.current_time() + ttl, value)
        self._memory_bytes += len(value)
        while len(self._memory) > _MEMORIES or self._memory_bytes > _MEMORY_BYTES:
            self._forget(next(iter(self._memory)))

    async def recall(self, key: str) -> bytes | None:
        """See :class:`~gateway.broker.base.Broker`."""
        deadline, value = self._memory.get(key, (0.0, None))
        return value if deadline > trio.current_time() else None

    def ready(self) -> str | None:
        """Memory is always there."""
        return None

    def measures(self) -> dict[str, tuple[str, float]]:
        """See :class:`~gateway.broker.base.Broker`."""
        return {
            "history_channels": ("Channels whose order is in memory", len(self._streams)),
            "history_bytes": ("Memory of the events kept for history", self.bytes),
        }

    def _forget(self, key: str) -> None:
        self._memory_bytes -= len(self._memory.pop(key, (0.0, b""))[1])

    def _new_epoch(self, channel: str) -> str:
        """The epoch of a channel that is not known (now): the same until some channel was forgotten.

        A channel that was forgotten and begins anew must not be taken for the old one; and whoever saw
        that a room was empty has missed nothing when it still is, or no longer.
        """
        name = f"{self._forgotten}\0{channel}".encode()
        return hashlib.blake2b(name, digest_size=6, key=self._key).hexdigest()

    def _stream(self, channel: str) -> _Stream:
        stream = self._streams.get(channel)
        if stream is None:
            stream = _Stream(self._new_epoch(channel), self._bounds.of(channel))
            self._streams[channel] = stream
            if channel not in self._subscribed:
                self._rest(channel)
        elif channel in self._idle:
            self._idle.move_to_end(channel)
        return stream

    def _keep(self, event: Event, stream: _Stream) -> None:
        before = stream.bytes
        stream.events.append(event)
        stream.mids[event.mid] = stream.seq
        stream.bytes += event.size + _EVENT_OVERHEAD
        bounds = stream.bounds
        while len(stream.events) > bounds.messages or stream.bytes > bounds.bytes:
            stream.drop_oldest()
        self.bytes += stream.bytes - before
        if self.bytes > self._settings.total_bytes:
            self._make_room(event.channel, stream)

    def _make_room(self, channel: str, stream: _Stream) -> None:
        """All rooms together keep too much, because of an event in ``channel``."""
        total = self._settings.total_bytes
        while self.bytes > total and self._idle and next(iter(self._idle)) != channel:
            self._forget_longest_unused()
        while self.bytes > total and stream.events:
            self.bytes -= stream.bytes
            stream.drop_oldest()
            self.bytes += stream.bytes

    def _trim(self, stream: _Stream) -> None:
        self.bytes -= stream.bytes
        stream.trim()
        self.bytes += stream.bytes

    def _rest(self, channel: str) -> None:
        """The channel has no member now."""
        self._idle[channel] = None
        if len(self._idle) > self._settings.rooms:
            self._forget_longest_unused()

    def _forget_longest_unused(self) -> None:
        stream = self._streams.pop(self._idle.popitem(last=False)[0])
        self.bytes -= stream.bytes
        self._forgotten += 1
