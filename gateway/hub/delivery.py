"""Who gets what: the way of every event to those who are connected to this node.

An event goes in through :meth:`Delivery.submit`, gets its place from the broker, and comes out
of :meth:`Delivery.deliver`, which finds the channel's members on this node and queues it for
each. None of this waits; with the memory broker all of it happens inside ``submit``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import trio

from gateway.broker.base import (
    Broker,
    Done,
    Event,
    HistoryPage,
    Position,
    Since,
    Sink,
    organisation_channel,
    room_channel,
    user_channel,
)
from gateway.broker.channels import Channel, connection_channel
from gateway.hub.connection import Connection
from gateway.hub.counters import Counters
from gateway.hub.deadline import deadline
from gateway.hub.judging import Judging
from gateway.hub.registry import Registry
from gateway.hub.room import Room, Unjudged
from gateway.hub.trace import Tracer
from gateway.wire.flusher import Flusher
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_event, check_mid, check_room
from protocol.sizes import check_size
from protocol.values import footprint

__all__ = ["Delivery", "Sent"]

_SMALL: Final = 256
"""Bytes of a message beyond which its memory is looked at; what is smaller takes 16 kB at most."""
_LATEST: Final = 10**13 - 1
_LONGEST_MID: Final = "0" * 24
"""As long as those of :func:`_random_mids`."""

_AT_ONCE: Final = 50
"""Users that are sent to before others have their turn: each takes some 20 µs."""


class Sent(NamedTuple):
    """A direct send: its message id, and how many connections it was queued for."""

    mid: str
    connections: int
    seq: int | None = None
    """Its place in the user's order; what goes to a connection, or is ephemeral, has none."""
    epoch: str | None = None


class Delivery:
    """Events into the broker, and out of it to the members of this node."""

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        registry: Registry,
        channels: dict[Channel, Room],
        counters: Counters,
        tracer: Tracer | None,
        judging: Judging,
        *,
        timeout: float,
        message_bytes: int,
    ) -> None:
        """``timeout`` bounds every wait for the broker, in seconds; ``message_bytes`` every event."""
        self.listeners: dict[str, Callable[[Event], None]] = {}
        """Channels without members, whose events are for somebody else in here."""
        self._broker = broker
        self._flusher = flusher
        self._registry = registry
        self._channels = channels
        self._counters = counters
        self._tracer = tracer
        self._judging = judging
        self._timeout = timeout
        self._message_bytes = message_bytes
        self._mids = _random_mids()
        broker.attach(Sink(self.deliver, self.lost, self.reset, flusher.flush))

    def new_mid(self) -> str:
        """A message id that no other message has."""
        return next(self._mids)

    def submit(
        self,
        org: str,
        room: str | None,
        event: str,
        data: Any,
        done: Done,
        sender: str | None,
        mid: str | None,
        exclude: frozenset[str] | None,
        critical: bool,
        size: int,
    ) -> None:
        """Publish to a room, or with None to the organisation; ``done`` gets the place or a 3xx error.

        ``size`` is what ``data`` took on the wire, in bytes, or 0. The bounds of history and of what waits
        for slow clients count with what it takes in memory, which is looked at when it may be much.
        ``data`` nests ``MAX_EVENT_DEPTH`` deep at most. Raises what :meth:`check_size` raises.
        """
        if size > _SMALL or not size:
            size = max(size, footprint(data))
            self.check_size(room, event, data, sender=sender, mid=mid, size=size)
        if exclude:
            size += footprint(list(exclude))
        self._counters.publishes += 1
        self._broker.submit(
            Event(
                channel=organisation_channel(org) if room is None else room_channel(org, room),
                event=event,
                mid=mid or self.new_mid(),
                ts=time.time_ns() // 1_000_000,
                room=room,
                data=data,
                sender=sender,
                exclude=exclude,
                critical=critical,
                size=size,
            ),
            done,
        )

    def check_size(
        self, room: str | None, event: str, data: Any, *, sender: str | None, mid: str | None, size: int
    ) -> None:
        """Raise TOO_LARGE when some client's codec makes this event larger than clients were told.

        ``size`` is what :func:`protocol.sizes.check_size` asks for.
        """
        envelope = Envelope(
            "event",
            room=room,
            event=event,
            data=data,
            ts=_LATEST,
            mid=mid or _LONGEST_MID,
            sender=sender,
            critical=True,
        )
        check_size(envelope, self._message_bytes, size=size)

    async def publish(
        self,
        org: str,
        room: str | None,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
        exclude: frozenset[str] | None = None,
        critical: bool = False,
        size: int = 0,
    ) -> Position:
        """As :meth:`submit`, for those who can wait; checks the names, raises 1xx and 3xx errors.

        ``data`` must be of the value model.
        """
        if room is not None:
            check_room(room)
        check_event(event)
        if mid is not None:
            check_mid(mid)
        placed = _Placed()
        self.submit(
            org,
            room,
            event,
            data,
            placed,
            sender,
            mid,
            exclude or None,
            critical,
            size,
        )
        return await self._position(placed)

    async def _position(self, placed: _Placed) -> Position:
        self._flusher.wake()
        with deadline(self._timeout):
            await placed.event.wait()
        if isinstance(placed.result, ProtocolError):
            raise placed.result
        assert placed.result is not None
        return placed.result

    async def send_to_user(
        self,
        org: str,
        user: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> Sent:
        """Send to all connections of one user, wherever they are; raises 1xx and 3xx errors.

        It has its place in the user's order, and is kept, unless it is ``ephemeral``. The answer counts the
        connections to this node.
        """
        return (
            await self.send_to_users(org, [user], event, data, sender=sender, mid=mid, ephemeral=ephemeral)
        )[0]

    async def send_to_users(
        self,
        org: str,
        users: Sequence[str],
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> list[Sent]:
        """As :meth:`send_to_user` for each of ``users``, whose places come with few calls of the broker.

        When one has no place the first error is raised; then others may have theirs.
        """
        check_event(event)
        if mid is not None:
            check_mid(mid)
        mid = mid or self.new_mid()
        size = footprint(data)
        now = time.time_ns() // 1_000_000
        waiting: list[_Placed] = []
        for number, user in enumerate(users, 1):
            placed = _Placed()
            waiting.append(placed)
            self._counters.publishes += 1
            self._broker.submit(
                Event(
                    channel=user_channel(org, user),
                    event=event,
                    mid=mid,
                    ts=now,
                    data=data,
                    sender=sender,
                    ordered=not ephemeral,
                    size=size,
                ),
                placed,
            )
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        sent = []
        for user, placed in zip(users, waiting, strict=True):
            position = await self._position(placed)
            sent.append(
                Sent(
                    position.mid,
                    self.wanting(org, user, event),
                    None if ephemeral else position.seq,
                    None if ephemeral else position.epoch,
                )
            )
        return sent

    async def send_each(
        self, sends: Sequence[tuple[str, str, str, Any, str]]
    ) -> list[Position | ProtocolError]:
        """Send to users: organisation, user, event, data and message id of each; of one user, in their order.

        All go to the broker together. What becomes of one does not touch the others.
        """
        now = time.time_ns() // 1_000_000
        waiting: list[_Placed] = []
        for number, (org, user, event, data, mid) in enumerate(sends, 1):
            placed = _Placed()
            waiting.append(placed)
            self._counters.publishes += 1
            self._broker.submit(
                Event(
                    channel=user_channel(org, user),
                    event=event,
                    mid=mid,
                    ts=now,
                    data=data,
                    size=footprint(data),
                ),
                placed,
            )
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        places: list[Position | ProtocolError] = []
        late: ProtocolError | None = None
        for placed in waiting:
            if late is not None and placed.result is None:
                places.append(late)  # the time of one is the time of all
                continue
            try:
                places.append(await self._position(placed))
            except ProtocolError as error:
                places.append(error)
                if placed.result is None:
                    late = error
        return places

    def wanting(self, org: str, user: str, event: str) -> int:
        """How many connections of a user to this node want events of this name."""
        organisation = self._registry.organisations.get(org)
        local = None if organisation is None else organisation.users.get(user)
        if local is None:
            return 0
        return sum(
            place.connection.filter.allows(event) and place.events.allows(event) for place in local.members()
        )

    def send_to_connection(
        self,
        org: str,
        connection_id: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Sent:
        """Send to one connection; raises NOT_FOUND, also while it has not been greeted yet."""
        check_event(event)
        connection = self._registry.find(org, connection_id)
        if not connection.internal:
            raise ProtocolError(ErrorCode.NOT_FOUND, "no such connection")
        mid = mid or self.new_mid()
        direct = Event(
            channel=connection_channel(org, connection_id),
            event=event,
            mid=mid,
            ts=time.time_ns() // 1_000_000,
            data=data,
            sender=sender,
            ordered=False,
        )
        queued = connection.filter.allows(event) and connection.outbox.put(
            connection.encoding.encode(direct.envelope())
        )
        if self._tracer is not None:
            self._tracer.sent_to(connection, direct)
        self._flusher.wake()
        return Sent(mid, int(queued))

    def announce(self, connection: Connection, room: str, event: str, data: Any) -> None:
        """Tell the others of a room something that has no place in its order (typing)."""
        self._broker.submit(
            Event(
                channel=room_channel(connection.org, room),
                event=event,
                mid=self.new_mid(),
                ts=time.time_ns() // 1_000_000,
                room=room,
                data=data,
                sender=connection.user,
                exclude=None if connection.user is None else frozenset((connection.user,)),
                exclude_connection=connection.id,
                ordered=False,
            ),
            _ignore,
        )

    def deliver(self, event: Event) -> None:
        """See ``Broker.deliver``."""
        room = self._channels.get(event.channel)
        if room is not None:
            for tap in room.taps:
                tap.append(event)
            try:
                self._counters.deliveries += room.fan_out(event)
            except Unjudged:
                self._judging.take(room, event)
        elif event.channel in self.listeners:
            self.listeners[event.channel](event)
            return
        # Nobody asks about typing: its message id is not told.
        if self._tracer is not None and event.exclude_connection is None:
            members = () if room is None else room.members()
            self._tracer.delivered(event.channel.org, event, members)

    def lost(self, channel: Channel, first: int, last: int) -> None:
        """See ``Broker.lost``."""
        room = self._channels.get(channel)
        if room is not None:
            room.lost(first, last)

    def reset(self, channel: Channel, epoch: str, seq: int) -> None:
        """See ``Broker.reset``."""
        room = self._channels.get(channel)
        if room is not None:
            room.reset(epoch, seq)

    async def history(
        self, org: str, room: str, *, since: Since | None = None, limit: int, reader: str | None = None
    ) -> HistoryPage:
        """As :meth:`history_of`, of a room."""
        return await self.history_of(
            room_channel(org, check_room(room)), since=since, limit=limit, reader=reader
        )

    async def history_of(
        self, channel: Channel, *, since: Since | None = None, limit: int, reader: str | None = None
    ) -> HistoryPage:
        """A page of a channel's kept events, without those that leave out the user ``reader``.

        Raises 3xx when the broker is unavailable.
        """
        complete = True
        with deadline(self._timeout):
            while True:
                page = await self._broker.history(channel, since=since, limit=limit)
                complete = complete and page.complete
                seen = [event for event in page.events if reader not in (event.exclude or ())]
                if seen or not page.more:
                    return page._replace(events=seen, complete=complete)
                # An empty page would have no last event from which to go on.
                since = Since(page.epoch, page.events[-1].seq or 0)

    def trace(self, org: str, mid: str, *, user: str | None = None) -> dict[str, Any] | None:
        """What became of a message on this node, for one user or for all; None when it was not traced."""
        if self._tracer is None:
            return None
        organisation = self._registry.organisations.get(org)
        present = () if organisation is None else organisation.connections.values()
        return self._tracer.find(org, mid, user, present)


class _Placed:
    """Takes what the broker says of one event."""

    __slots__ = ("event", "result")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.result: Position | ProtocolError | None = None

    def __call__(self, result: Position | ProtocolError) -> None:
        self.result = result
        self.event.set()


def _ignore(_result: Position | ProtocolError) -> None:
    """For events whose place nobody asked for."""


def _random_mids() -> Iterator[str]:
    # Nobody may guess the next one: published first, it would make the other event a duplicate.
    # Asking the kernel for each takes 0.7 µs.
    while True:
        digits = os.urandom(12 * 128).hex()
        for start in range(0, len(digits), 24):
            yield digits[start : start + 24]
