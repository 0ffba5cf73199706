"""One organisation on this node. Whatever a connection can reach, it reaches through its own one."""

from __future__ import annotations

from sys import getsizeof
from typing import Final, Generic, TypeVar

from gateway.broker.base import organisation_channel, room_channel, user_channel
from gateway.hub.room import Room
from gateway.wire.shares import Share

__all__ = ["Organisation", "OrganisationTotals", "Retired"]

C = TypeVar("C")
"""What a connection is, which stands above this file."""


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


class Retired:
    """Totals of organisations without a connection, bounded in bytes: the first to go is forgotten first."""

    MAX_BYTES: Final = 4 << 20
    """Some ten thousand organisations."""
    _ENTRY: Final = 400
    """Bytes of one, without its name: six integers, their object, a place in a dictionary."""

    def __init__(self) -> None:
        self._totals: dict[str, OrganisationTotals] = {}
        self.bytes = 0
        """Roughly the memory of all."""

    def __len__(self) -> int:
        return len(self._totals)

    def keep(self, name: str, totals: OrganisationTotals) -> None:
        """Remember an organisation, at the price of older ones."""
        self._totals[name] = totals
        self.bytes += getsizeof(name) + self._ENTRY
        while self.bytes > self.MAX_BYTES:
            self.take(next(iter(self._totals)))

    def get(self, name: str) -> OrganisationTotals | None:
        """What is remembered."""
        return self._totals.get(name)

    def take(self, name: str) -> OrganisationTotals | None:
        """What is remembered, which is then forgotten: the organisation is back."""
        totals = self._totals.pop(name, None)
        if totals is not None:
            self.bytes -= getsizeof(name) + self._ENTRY
        return totals


class Organisation(Generic[C]):
    """Connections, users and rooms of one organisation."""

    __slots__ = ("channel", "connections", "everyone", "name", "rooms", "share", "totals", "users")

    def __init__(self, name: str, share: Share, totals: OrganisationTotals | None = None) -> None:
        self.name = name
        self.share = share
        self.totals = totals or OrganisationTotals()
        self.channel = organisation_channel(name)
        self.everyone = Room(self.channel, None)
        self.connections: dict[str, C] = {}
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
