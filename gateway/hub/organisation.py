"""One organisation on this node. Whatever a connection can reach, it reaches through its own one."""

from __future__ import annotations

from gateway.broker.base import organisation_channel, room_channel, user_channel
from gateway.hub.connection import Connection
from gateway.hub.room import Room
from gateway.wire.flusher import Share

__all__ = ["Organisation", "OrganisationTotals"]


class OrganisationTotals:
    """What an organisation did on this node; outlives its last connection."""

    __slots__ = ("bytes_in", "bytes_out", "connects", "disconnects", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.connects = 0
        self.disconnects = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0


class Organisation:
    """Connections, users and rooms of one organisation."""

    __slots__ = ("channel", "connections", "everyone", "name", "rooms", "share", "totals", "users")

    def __init__(self, name: str, share: Share, totals: OrganisationTotals | None = None) -> None:
        self.name = name
        self.share = share
        self.totals = totals or OrganisationTotals()
        self.channel = organisation_channel(name)
        self.everyone = Room(self.channel, None)
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, Room] = {}
        self.rooms: dict[str, Room] = {}

    def room(self, name: str) -> Room:
        """The room of that name, made if it is not there."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(room_channel(self.name, name), name)
        return room

    def user(self, name: str) -> Room:
        """The connections of one user, as a room."""
        room = self.users.get(name)
        if room is None:
            room = self.users[name] = Room(user_channel(self.name, name), None)
        return room

    def discard(self, room: Room) -> None:
        """Forget a room or user channel without members."""
        if room.name is not None:
            self.rooms.pop(room.name, None)
        elif room is not self.everyone:
            self.users.pop(room.channel.name, None)
