"""What a resume token stands for: rooms, organisation and user with their filters, policies and positions."""

from __future__ import annotations

import msgspec

from gateway.hub.connection import Connection
from gateway.hub.lag import Overflow
from gateway.hub.presence import Presence
from gateway.hub.room import Membership
from protocol.patterns import EventFilter

__all__ = ["SavedRoom", "Snapshot", "note", "restore", "take"]


class SavedRoom(msgspec.Struct, array_like=True):
    """One room, and the last position in it that is known of the client; without a name another order."""

    room: str
    events: list[str] | None
    overflow: Overflow
    key: str
    epoch: str
    seq: int
    presence: bool = False

    @property
    def filter(self) -> EventFilter:
        """The filter of the join."""
        return EventFilter.ALL if self.events is None else EventFilter.of(self.events)


class Snapshot(msgspec.Struct, array_like=True):
    """What a connection had."""

    org: str
    user: str | None
    events: list[str]
    excepted: list[str]
    subscribed: bool
    rooms: list[SavedRoom]
    own: list[SavedRoom] = []
    """The organisation, and then the user, if there is one."""

    @property
    def filter(self) -> EventFilter:
        """The connection's own filter."""
        return EventFilter(self.events, self.excepted, subscribed=self.subscribed)


def take(connection: Connection, presence: Presence) -> bytes:
    """What ``connection`` has now, as it is kept and passed on."""
    rooms = [
        _saved(name, place, presence.watches(place.room.channel, connection))
        for name, place in connection.memberships.items()
    ]
    return msgspec.json.encode(
        Snapshot(
            connection.org,
            connection.user,
            list(connection.filter.events),
            list(connection.filter.excepted),
            connection.filter.subscribed,
            rooms,
            [_saved("", place, watches=False) for place in connection.internal],
        )
    )


def _saved(name: str, place: Membership, watches: bool) -> SavedRoom:
    events = None if place.events is EventFilter.ALL else list(place.events.events)
    epoch, seq = place.joined_at if place.acked is None else place.acked
    return SavedRoom(name, events, place.overflow, place.key, epoch, seq, watches)


def restore(value: bytes, connection: Connection) -> Snapshot | None:
    """What :func:`take` gave, when it is of the same user as ``connection``."""
    saved = msgspec.json.decode(value, type=Snapshot)
    return saved if (saved.org, saved.user) == (connection.org, connection.user) else None


def note(token: str) -> str:
    """Under which key the broker remembers what ``token`` stands for."""
    return f"resume:{token}"
