"""Who is typing: announced when it starts and stops, and stopped when nothing more is heard of it."""

from __future__ import annotations

import math

import trio

from gateway.hub.connection import Connection
from gateway.hub.hub import Hub

__all__ = ["Typing"]


class Typing:
    """The rooms in which one connection's client types."""

    __slots__ = ("_connection", "_hub", "_stops", "_timeout")

    def __init__(self, hub: Hub, connection: Connection, timeout: float) -> None:
        """It stops by itself ``timeout`` seconds after the last start."""
        self._hub = hub
        self._connection = connection
        self._timeout = timeout
        self._stops: dict[str, float] = {}
        """Room → Trio time at which typing stops by itself."""

    def __contains__(self, room: str) -> bool:
        return room in self._stops

    def __len__(self) -> int:
        return len(self._stops)

    @property
    def deadline(self) -> float:
        """Trio time at which the next one stops."""
        return min(self._stops.values(), default=math.inf)

    def start(self, room: str) -> None:
        """Announce typing, or prolong it."""
        if room not in self._stops and not self._elsewhere(room):
            self._announce(room, "typing:start")
        self._stops[room] = trio.current_time() + self._timeout

    def stop(self, room: str) -> None:
        """Announce the end of typing, if there was any, and no other connection of the user goes on."""
        if self._stops.pop(room, None) is not None and not self._elsewhere(room):
            self._announce(room, "typing:stop")

    def stop_due(self, now: float) -> None:
        """Stop what was not prolonged in time."""
        for room in [room for room, stop in self._stops.items() if stop <= now]:
            self.stop(room)

    def stop_all(self) -> None:
        """The connection is gone."""
        for room in list(self._stops):
            self.stop(room)

    def _elsewhere(self, room: str) -> bool:
        connection = self._connection
        user = connection.organisation.users.get(connection.user or "")
        return user is not None and any(
            place.connection is not connection and place.connection.peer.is_typing(room)
            for place in user.members()
        )

    def _announce(self, room: str, event: str) -> None:
        connection = self._connection
        user = connection.user
        self._hub.announce(connection, room, event, {"user": user} if user else {"connection": connection.id})
