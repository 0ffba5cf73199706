"""Entering and leaving: the channels that somebody on this node hears, and who is in them.

Waiting is done for the broker only, and bounded: a room is entered when its channel is followed and read
up to the last event that was delivered on this node, so that a member misses nothing and gets nothing twice.
"""

from __future__ import annotations

import contextlib
from collections import deque
from contextlib import AbstractContextManager
from typing import Final

from gateway.broker.base import Broker, Event, HistoryPage, Since
from gateway.broker.channels import Channel
from gateway.hub.connection import Connection
from gateway.hub.deadline import deadline
from gateway.hub.lag import Overflow, Step
from gateway.hub.organisation import Organisation
from gateway.hub.presence import Presence
from gateway.hub.room import Membership, Room
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import EventFilter

__all__ = ["Rooms"]

_TAP: Final = 4096
"""Events noted for one member to be; when more come before the broker answers, it is asked again."""
_AT_ONCE: Final = contextlib.nullcontext()
"""What bounds the waits for a broker that never waits."""


class Rooms:
    """The channels of this node. Every method that does not say ``await`` returns at once."""

    def __init__(self, broker: Broker, presence: Presence, *, timeout: float) -> None:
        """``timeout`` bounds every wait for the broker, in seconds."""
        self.channels: dict[Channel, Room] = {}
        """Every room, user and organisation with a member here, or with somebody about to enter."""
        self._broker = broker
        self._presence = presence
        self._timeout = timeout
        presence.channels = self.channels

    async def join(
        self,
        connection: Connection,
        name: str,
        *,
        events: EventFilter,
        since: Since | None = None,
        overflow: Overflow = "disconnect",
        key: str = "key",
    ) -> tuple[Membership, HistoryPage]:
        """Enter a room, or change the filter of a joined one; with ``since``, also read what was missed.

        The member is in the room when this returns, and nothing was published between the page's last event
        and its entry. Raises 3xx when the broker is unavailable.
        """
        room = connection.organisation.room(name)
        present = connection.memberships.get(name)
        place, page = await self._join(connection, room, present, events, since, overflow, key)
        connection.memberships[name] = place
        return place, page

    async def join_own(
        self,
        connection: Connection,
        place: Membership,
        *,
        events: EventFilter,
        since: Since | None = None,
        overflow: Overflow = "disconnect",
        key: str = "key",
    ) -> HistoryPage:
        """As :meth:`join`, for the ``place`` that a connection has in its organisation or in its user."""
        return (await self._join(connection, place.room, place, events, since, overflow, key))[1]

    async def _join(
        self,
        connection: Connection,
        room: Room,
        present: Membership | None,
        events: EventFilter,
        since: Since | None,
        overflow: Overflow,
        key: str,
    ) -> tuple[Membership, HistoryPage]:
        held = present if since is not None else None
        if held is not None:  # what comes now comes behind what is replayed
            held.hold()
        tap = self.hold(room)
        try:
            try:
                with self.deadline():
                    if room.name is not None:  # a connection hears its organisation and its user already
                        await self._broker.subscribe(room.channel)
                    page = await self._read_up(room, since, tap, patient=connection.patient)
            except BaseException:
                if held is not None:
                    held.release()
                raise
            if connection.id not in connection.organisation.connections:  # gone meanwhile
                raise ProtocolError(ErrorCode.NOT_FOUND, "the connection has ended")
            place = self.enter(room, connection, events, overflow, key, page=page)
            place.joined_at = Since(page.epoch, page.seq) if since is None else since
        finally:
            self.let_go(room, tap, connection.organisation)
        return place, page

    async def look(self, room: Room, tap: deque[Event], *, patient: bool = False) -> HistoryPage | None:
        """Follow the channel of a held ``room``; returns where it is, or None when the room knows that.

        For one that is ``patient`` it is where this node has come to.
        """
        await self._broker.subscribe(room.channel)
        if room.epoch and not room.empty:
            return None
        known = self._broker.position(room.channel) if patient and room.empty else None
        page = HistoryPage([], *known, more=False, complete=True) if known else None
        page = page or await self._read_up(room, None, tap)
        if not room.empty:
            return page
        room.seq, room.epoch = page.seq, page.epoch
        return None

    def enter_own(self, room: Room, connection: Connection, page: HistoryPage | None) -> Membership:
        """Make ``connection`` hear its organisation or its user, from where :meth:`look` found that."""
        if page is not None and page.epoch == room.epoch and page.seq < room.seq:
            page = None  # another one came meanwhile, and then more events
        place = self.enter(room, connection, page=page)
        place.joined_at = Since(room.epoch, room.seq) if page is None else Since(page.epoch, page.seq)
        return place

    async def _read_up(
        self, room: Room, since: Since | None, tap: deque[Event], *, patient: bool = False
    ) -> HistoryPage:
        """What a member to be has missed, up to the last event that was delivered on this node."""
        # What never waits never knows more than its members were told; of another broker only a page says so.
        if since is not None and (patient or not self._broker.waits):
            known = self._broker.position(room.channel) if room.empty else Since(room.epoch, room.seq)
            if since == known:
                return HistoryPage([], *since, more=False, complete=True)
        while True:
            tap.clear()
            page = await self._broker.history(room.channel, since=since, limit=0 if since is None else 2**31)
            # The page may be older than what was delivered while it was under way.
            newer = [event for event in tap if event.seq is not None]
            if all(event.epoch == page.epoch for event in newer) and len(tap) < _TAP:
                break
        newer = [event for event in newer if (event.seq or 0) > page.seq]
        if not newer:
            return page
        events = page.events if since is None else [*page.events, *newer]
        return page._replace(events=events, seq=newer[-1].seq or 0)

    def leave(self, connection: Connection, name: str) -> bool:
        """Leave a room; False when it was not joined."""
        place = connection.memberships.pop(name, None)
        if place is None:
            return False
        self.exit(place, connection)
        return True

    def set_filter(self, connection: Connection, events: EventFilter) -> None:
        """Give a connection another filter over everything that reaches it."""
        connection.filter = events
        for place in connection.places:
            place.room.regroup(place)

    def enter(
        self,
        room: Room,
        connection: Connection,
        events: EventFilter = EventFilter.ALL,
        overflow: Overflow = "disconnect",
        key: str = "key",
        page: HistoryPage | None = None,
    ) -> Membership:
        """Make ``connection`` a member of ``room``, or change its place; it has seen up to ``page``."""
        if page is not None and room.empty:
            room.seq, room.epoch = page.seq, page.epoch
        self.channels[room.channel] = room
        place = _place_in(room, connection)
        if place is None:
            place = room.add(connection, events, overflow, key)
            self._presence.entered(room, connection)
        else:
            room.change(place, events, overflow, key)
        if page is not None and (page.epoch != room.epoch or page.seq > room.seq):
            place.fall_behind(page.seq, epoch=page.epoch, by_replay=True).step(Step.READ_UP)
        return place

    def deadline(self) -> AbstractContextManager[None]:
        """The bound of a wait for the broker; raises TIMEOUT."""
        return deadline(self._timeout) if self._broker.waits else _AT_ONCE

    def hold(self, room: Room) -> deque[Event]:
        """Keep a room alive while somebody is about to enter, until :meth:`let_go`; returns what notes the
        events that are delivered in it meanwhile."""
        tap: deque[Event] = deque(maxlen=_TAP)
        room.taps = (*room.taps, tap)
        self.channels[room.channel] = room
        return tap

    def let_go(self, room: Room, tap: deque[Event], organisation: Organisation[Connection]) -> None:
        """Whoever was about to enter has done so, or will not."""
        room.taps = tuple([each for each in room.taps if each is not tap])
        self._discard_if_empty(room, organisation)

    def exit(self, place: Membership, connection: Connection) -> None:
        """``connection`` gives up its ``place``."""
        place.room.remove(place)
        self._presence.left(place.room, connection)
        self._discard_if_empty(place.room, connection.organisation)

    def _discard_if_empty(self, room: Room, organisation: Organisation[Connection]) -> None:
        if room.empty and not room.taps:
            self.channels.pop(room.channel, None)
            self._broker.unsubscribe(room.channel)
            organisation.discard(room)


def _place_in(room: Room, connection: Connection) -> Membership | None:
    if room.name is not None:
        return connection.memberships.get(room.name)
    return next((place for place in connection.internal if place.room is room), None)
