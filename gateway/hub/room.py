"""A room's members, grouped so that an event is judged and encoded once for all who are alike.

Members with the same codec and the same filters form a group. An event is matched against
each group's filters and encoded once per codec; what remains per member is one ``put``
into its outbox. 500 members with one filter cost one match and one encode, not 500.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.broker.base import Event
from gateway.wire.outbox import Outbox
from protocol.codec import Codec
from protocol.frames import BINARY, TEXT, server_frame
from protocol.patterns import EventFilter

if TYPE_CHECKING:
    from gateway.hub.connection import Connection

__all__ = ["Membership", "Room", "event_frame"]

GroupKey = tuple[Codec, EventFilter, EventFilter]


class Membership:
    """One connection's place in one room."""

    __slots__ = ("acked", "connection", "events", "group", "room")

    def __init__(self, room: Room, connection: Connection, events: EventFilter) -> None:
        """``events`` is the filter of the join; the connection's own applies as well."""
        self.room = room
        self.connection = connection
        self.events = events
        self.group: Group | None = None
        self.acked: int | None = None


class Group:
    """Members that get the same events in the same bytes."""

    __slots__ = ("codec", "events", "filter", "members")

    def __init__(self, codec: Codec, connection_filter: EventFilter, room_filter: EventFilter) -> None:
        self.codec = codec
        self.filter = connection_filter
        self.events = room_filter
        self.members: dict[Outbox, Membership] = {}


def event_frame(event: Event, codec: Codec) -> bytes:
    """The finished WebSocket frame of an event."""
    return server_frame(BINARY if codec.binary else TEXT, codec.encode(event.envelope()))


class Room:
    """One channel's members on this node: a room, a whole organisation, or one user's connections."""

    __slots__ = ("_groups", "channel", "epoch", "members", "name", "seq")

    def __init__(self, channel: str, name: str | None) -> None:
        self.channel = channel
        self.name = name
        self.seq = 0
        self.epoch = ""
        """Where the channel stood when this node last heard of it."""
        self.members: dict[Connection, Membership] = {}
        self._groups: dict[GroupKey, Group] = {}

    def add(self, connection: Connection, events: EventFilter) -> Membership:
        """Add a member, or give a present one another filter."""
        membership = self.members.get(connection)
        if membership is None:
            membership = self.members[connection] = Membership(self, connection, events)
        else:
            self._ungroup(membership)
            membership.events = events
        self._group(membership)
        return membership

    def remove(self, connection: Connection) -> None:
        """Remove a member, if it is one."""
        membership = self.members.pop(connection, None)
        if membership is not None:
            self._ungroup(membership)

    def regroup(self, membership: Membership) -> None:
        """The member's connection has another filter now."""
        self._ungroup(membership)
        self._group(membership)

    def _group(self, membership: Membership) -> None:
        connection = membership.connection
        key = (connection.codec, connection.filter, membership.events)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
        group.members[connection.outbox] = membership
        membership.group = group

    def _ungroup(self, membership: Membership) -> None:
        group = membership.group
        if group is None:
            return
        del group.members[membership.connection.outbox]
        if not group.members:
            del self._groups[group.codec, group.filter, group.events]
        membership.group = None

    def fan_out(self, event: Event) -> int:
        """Queue ``event`` for everyone it is for; returns for how many. Never waits, never raises."""
        name = event.event
        if event.seq is not None:
            self.seq = event.seq
        frames: dict[Codec, bytes] = {}
        count = 0
        for group in self._groups.values():
            if not (group.filter.allows(name) and group.events.allows(name)):
                continue
            frame = frames.get(group.codec)
            if frame is None:
                frame = frames[group.codec] = event_frame(event, group.codec)
            if event.exclude is None and event.exclude_connection is None:
                # A full outbox may end a connection, but only its own task takes it out of the room.
                for outbox in group.members:
                    count += outbox.put(frame)
            else:
                for outbox, membership in group.members.items():
                    count += not membership.connection.excluded_from(event) and outbox.put(frame)
        return count
