"""The broker of a single node: everything in this process's memory, gone with it."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import sys
import time
from collections import OrderedDict, deque
from typing import Any

import trio

from gateway.broker.base import Channel, Done, Effect, Event, HistoryPage, Position, Since, Sink
from gateway.broker.bounds import Bounds, HistoryBounds
from gateway.broker.channels import Kind
from gateway.broker.notes import Notes
from gateway.broker.state import STATE_BYTES, encode_state, entry_size, state_full
from gateway.config.settings import HistorySettings

__all__ = ["MemoryBroker"]

_EVENT_OVERHEAD = 400
"""Bytes that a kept event takes beside its data (measured with tracemalloc)."""
_NAME_OVERHEAD = 64
"""Bytes that a name takes in a set, beside its text: its slots there are at most two thirds full."""
_ORDER_OVERHEAD = 1600
"""Bytes that the order of one user takes beside its events (measured with tracemalloc)."""
_SWEEP = 5.0
_NOTES_BYTES = 64 * 2**20


class _Tenant:
    """What one organisation keeps."""

    __slots__ = ("away", "bytes", "idle", "kept", "org", "streams")

    def __init__(self, org: str) -> None:
        self.org = org
        self.streams = 0
        self.bytes = 0
        self.idle: OrderedDict[Channel, None] = OrderedDict()
        """Channels without a member on this node, the longest unused first; not those of users."""
        self.away: OrderedDict[Channel, None] = OrderedDict()
        """Those of users, who may be many: what they take counts as bytes, not as rooms."""
        self.kept: dict[_Stream, None] = {}
        """Those that have events, in the order in which they got their first."""


class _Stream:
    """One channel: its order, its last events, and its state."""

    __slots__ = (
        *("bounds", "bytes", "epoch", "events", "mids", "overhead", "seq", "shelf"),
        *("state", "state_bytes", "tenant"),
    )

    def __init__(self, channel: Channel, epoch: str, bounds: Bounds, tenant: _Tenant) -> None:
        is_user = channel.kind is Kind.USER
        self.overhead = _ORDER_OVERHEAD if is_user else 0
        self.shelf = tenant.away if is_user else tenant.idle
        """Where it stands while it has no member."""
        self.epoch = epoch
        self.bounds = bounds
        self.tenant = tenant
        self.seq = 0
        self.events: deque[Event] = deque()
        self.bytes = 0
        self.mids: dict[str, int] = {}
        self.state: dict[str, tuple[Any, int]] = {}
        """Name → value and what the entry counts."""
        self.state_bytes = 0

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

    def apply(self, effect: Effect) -> int | None:
        """Change the state; returns by how many bytes it grew, or None when there is no room for that."""
        name, value = effect
        before = self.state.get(name, (None, 0))[1]
        after = entry_size(name, encode_state(value))
        if after > before and self.state_bytes + after - before > STATE_BYTES:
            return None
        if value is None:
            self.state.pop(name, None)
        else:
            self.state[name] = (value, after)
        self.state_bytes += after - before
        return after - before


class MemoryBroker:
    """A :class:`~gateway.broker.base.Broker` that delivers and calls ``done`` inside ``submit``."""

    waits = False

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._bounds = HistoryBounds(settings)
        self._streams: dict[Channel, _Stream] = {}
        """Of channels with a member, or in which something was published: asking leaves nothing behind."""
        self._tenants: dict[str, _Tenant] = {}
        self._idle = 0
        """Channels without a member, of all organisations, but for users."""
        self.bytes = 0
        """Of all kept events and states, with what they take beside their data."""
        self._key = secrets.token_bytes(16)
        self._forgotten = 0
        self._subscribed: set[Channel] = set()
        self._notes = Notes(_NOTES_BYTES)
        self.sink = Sink()

    def attach(self, sink: Sink) -> None:
        """See :class:`~gateway.broker.base.Broker`.

        Nothing is lost here, and nothing happens but inside the calls of others: only ``deliver`` is called.
        """
        self.sink = sink

    async def run(self) -> None:
        """Forget what has become too old, until cancelled."""
        while True:
            await trio.sleep(_SWEEP)
            self._notes.expire(trio.current_time())
            for number, (channel, stream) in enumerate(list(self._streams.items())):
                if self._streams.get(channel) is stream:  # it may have been forgotten at a checkpoint
                    self._trim(stream)
                if number % 1000 == 999:
                    await trio.lowlevel.checkpoint()

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        if not event.ordered:
            self.sink.deliver(event)
            done(Position(0, "", event.mid))
            return
        stream = self._stream(event.channel)
        known = stream.mids.get(event.mid)
        if known is not None:
            done(Position(known, stream.epoch, event.mid))
            return
        if event.effect is not None:
            grown = stream.apply(event.effect)
            if grown is None:
                done(state_full())
                return
            stream.tenant.bytes += grown
            self.bytes += grown
            event.effect = None
        stream.seq += 1
        event.seq = stream.seq
        event.epoch = stream.epoch
        if stream.bounds.messages:
            self._keep(event, stream)
        self.sink.deliver(event)
        done(Position(event.seq, event.epoch, event.mid))

    async def subscribe(self, channel: Channel) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._subscribed.add(channel)
        stream = self._stream(channel)
        if channel in stream.shelf:
            del stream.shelf[channel]
            self._idle -= stream.shelf is stream.tenant.idle

    def unsubscribe(self, channel: Channel) -> None:
        """See :class:`~gateway.broker.base.Broker`. The channel's order is kept: a member may come back."""
        self._subscribed.discard(channel)
        stream = self._streams.get(channel)
        if stream is not None and not stream.seq:
            self._remove(channel)
        elif stream is not None:
            self._rest(channel, stream)

    def position(self, channel: Channel) -> Since | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return None  # history is here as well

    async def history(self, channel: Channel, *, since: Since | None, limit: int) -> HistoryPage:
        """See :class:`~gateway.broker.base.Broker`."""
        stream = self._streams.get(channel)
        if stream is None:
            epoch = self._new_epoch(channel)
            return HistoryPage([], epoch, 0, more=False, complete=since in (None, Since(epoch, 0)))
        if channel in stream.shelf:
            stream.shelf.move_to_end(channel)
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
            events,
            stream.epoch,
            stream.seq,
            more=start + len(events) < len(kept),
            complete=complete,
            state={name: value for name, (value, _) in stream.state.items()},
        )

    def remember(self, org: str, key: str, value: bytes, ttl: float) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._notes.set(org, key, value, trio.current_time() + ttl)

    async def recall(self, org: str, key: str) -> bytes | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return self._notes.get(org, key, trio.current_time())

    def ready(self) -> str | None:
        """Memory is always there."""
        return None

    def measures(self) -> dict[str, tuple[str, float]]:
        """See :class:`~gateway.broker.base.Broker`."""
        return {
            "history_channels": ("Channels whose order is in memory", len(self._streams)),
            "history_bytes": ("Memory of the events kept for history", self.bytes),
            "notes_bytes": ("Memory of what is kept for those who resume", self._notes.bytes),
        }

    def _new_epoch(self, channel: Channel) -> str:
        """The epoch of a channel that is not known (now): the same until some channel was forgotten.

        A channel that was forgotten and begins anew must not be taken for the old one; and whoever saw
        that a room was empty has missed nothing when it still is, or no longer.
        """
        name = f"{self._forgotten}\0{channel}".encode()
        return hashlib.blake2b(name, digest_size=6, key=self._key).hexdigest()

    def _stream(self, channel: Channel) -> _Stream:
        stream = self._streams.get(channel)
        if stream is None:
            tenant = self._tenants.get(channel.org)
            if tenant is None:
                tenant = self._tenants[channel.org] = _Tenant(channel.org)
            stream = _Stream(channel, self._new_epoch(channel), self._bounds.of(channel), tenant)
            self._streams[channel] = stream
            self.bytes += stream.overhead
            tenant.bytes += stream.overhead
            tenant.streams += 1
            if channel not in self._subscribed:
                self._rest(channel, stream)
        elif channel in stream.shelf:
            stream.shelf.move_to_end(channel)
        return stream

    def _keep(self, event: Event, stream: _Stream) -> None:
        if event.exclude:
            event.size += sum(sys.getsizeof(name) + _NAME_OVERHEAD for name in event.exclude)
        before = stream.bytes
        if not before:
            stream.tenant.kept[stream] = None
        stream.events.append(event)
        stream.mids[event.mid] = stream.seq
        stream.bytes += event.size + _EVENT_OVERHEAD
        bounds = stream.bounds
        while len(stream.events) > bounds.messages or stream.bytes > bounds.bytes:
            stream.drop_oldest()
        self._count(stream, before)
        if self.bytes > self._settings.total_bytes:
            self._make_room(event.channel, stream)

    def _count(self, stream: _Stream, before: int) -> None:
        """The bytes of a stream have changed."""
        grown = stream.bytes - before
        self.bytes += grown
        stream.tenant.bytes += grown
        if before and not stream.bytes:
            stream.tenant.kept.pop(stream, None)

    def _make_room(self, channel: Channel, stream: _Stream) -> None:
        """All rooms together keep too much, because of an event in ``channel``: who has most gives way."""
        total = self._settings.total_bytes
        while self.bytes > total:
            own = stream.tenant
            tenant = own
            # Whoever has more than an even part can be found without looking at all.
            if own.bytes <= total // len(self._tenants):
                tenant = max(self._tenants.values(), key=lambda each: each.bytes)
            shelf = tenant.idle or tenant.away
            if shelf and next(iter(shelf)) != channel:
                self._forget_longest_unused(shelf)
                continue
            giving = stream if tenant is own and stream.events else next(iter(tenant.kept), None)
            if giving is None:
                return  # what is left is state, which is bounded by the number of rooms
            before = giving.bytes
            giving.drop_oldest()
            self._count(giving, before)

    def _trim(self, stream: _Stream) -> None:
        before = stream.bytes
        stream.trim()
        if stream.bytes != before:
            self._count(stream, before)

    def _rest(self, channel: Channel, stream: _Stream) -> None:
        """The channel has no member now."""
        tenant = stream.tenant
        if channel not in stream.shelf and stream.shelf is tenant.idle:
            self._idle += 1
        stream.shelf[channel] = None
        if self._idle > self._settings.rooms:
            if len(tenant.idle) <= self._settings.rooms // len(self._tenants):
                tenant = max(self._tenants.values(), key=lambda each: len(each.idle))
            self._forget_longest_unused(tenant.idle)

    def _forget_longest_unused(self, shelf: OrderedDict[Channel, None]) -> None:
        self._remove(next(iter(shelf)))
        self._forgotten += 1

    def _remove(self, channel: Channel) -> None:
        stream = self._streams.pop(channel)
        tenant = stream.tenant
        size = stream.bytes + stream.state_bytes + stream.overhead
        self.bytes -= size
        tenant.bytes -= size
        tenant.kept.pop(stream, None)
        if channel in stream.shelf:
            del stream.shelf[channel]
            self._idle -= stream.shelf is tenant.idle
        tenant.streams -= 1
        if not tenant.streams:
            del self._tenants[tenant.org]

    def _lose_everything(self) -> None:
        """As a restart does: every room begins anew, with another epoch. For tests."""
        self._streams.clear()
        self._tenants.clear()
        self._idle = 0
        self.bytes = 0
        self._forgotten += 1
        self._notes.clear()
