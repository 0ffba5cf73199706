"""Who is in which room, and who is told when that changes.

A user is in a room from the entry of the first of its connections to the exit of the last one; these two
moments are told to the *watchers*, the members that joined with ``presence``. This class knows one node,
and that is the whole truth where there is only one; ``gateway/cluster/presence.py`` widens it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from gateway.broker.base import Channel, room_channel
from gateway.hub.peer import Member
from gateway.hub.room import Room
from protocol.encoding import Encoding
from protocol.envelope import Envelope

__all__ = ["NOBODY", "Presence", "describe_members"]

NOBODY: Final = ""
"""Stands for the connections without a user: they are counted, but neither listed nor announced."""


class Presence:
    """The users in the rooms of this node. Those of a room are counted only while somebody watches it."""

    def __init__(self) -> None:
        self.channels: Mapping[Channel, Room] = {}
        """Those of this node by channel; the hub sets this."""
        self._here: dict[Channel, dict[str, int]] = {}
        """Counted channel → user → connections."""
        self._lingering: dict[Channel, set[str]] = {}
        """Channel → users who are in it without a connection (``lingering.py``)."""
        self._watchers: dict[Channel, dict[Member, bool]] = {}
        """Channel → connections that want to be told, and whether they have begun to listen."""

    # --- what happens on this node ----------------------------------------------------------------

    def entered(self, room: Room, connection: Member) -> None:
        """A connection has become a member."""
        here = self._here.get(room.channel)
        if here is not None:
            user = connection.user or NOBODY
            here[user] = count = here.get(user, 0) + 1
            self._changed(room.channel, user, count, begun=count == 1)

    def left(self, room: Room, connection: Member) -> None:
        """A connection is no longer a member."""
        here = self._here.get(room.channel)
        if here is not None:
            self.unwatch(room.channel, connection)
            user = connection.user or NOBODY
            here[user] = count = here[user] - 1
            if not count:
                del here[user]
            self._changed(room.channel, user, count, begun=False)

    def linger(self, channel: Channel, user: str) -> None:
        """``user`` counts as one connection more in a room; at most once at a time."""
        self._lingering.setdefault(channel, set()).add(user)
        here = self._here.get(channel)
        if here is not None:
            here[user] = count = here.get(user, 0) + 1
            self._changed(channel, user, count, begun=count == 1)

    def gone(self, channel: Channel, user: str) -> None:
        """``user`` does not :meth:`linger` any more."""
        self._lingering[channel].discard(user)
        if not self._lingering[channel]:
            del self._lingering[channel]
        here = self._here.get(channel)
        if here is not None:
            here[user] = count = here[user] - 1
            if not count:
                del here[user]
            self._changed(channel, user, count, begun=False)

    def connected(self, connection: Member) -> None:
        """A connection has come to this node."""

    def disconnected(self, connection: Member) -> None:
        """A connection that was :meth:`connected` is gone."""

    async def settled(self, connection: Member) -> None:
        """Wait until all nodes can know that the connection is here; raises 3xx when they cannot be told."""

    def _changed(self, channel: Channel, user: str, count: int, *, begun: bool) -> None:
        """``user`` has ``count`` connections in a counted channel on this node now; ``begun``: the first."""
        if begun or not count:
            self.tell(channel, "join" if count else "leave", user)

    async def members(self, org: str, name: str) -> Mapping[str, int]:
        """The users in a room, wherever they are connected, and with how many connections.

        Connections without a user are under ``NOBODY``. Raises 3xx when other nodes' cannot be known.
        """
        return self._count(org, name)

    def _count(self, org: str, name: str) -> dict[str, int]:
        channel = room_channel(org, name)
        room = self.channels.get(channel)
        found = Counter(place.connection.user or NOBODY for place in (room.members() if room else ()))
        found.update(self._lingering.get(channel, ()))
        return dict(found)

    # --- watching ---------------------------------------------------------------------------------

    async def watch(self, connection: Member, name: str) -> None:
        """``connection`` is going to enter the room ``name`` and to watch it. Raises 3xx."""
        channel = room_channel(connection.org, name)
        self._watchers.setdefault(channel, {}).setdefault(connection, False)
        if channel not in self._here:
            self._here[channel] = self._count(connection.org, name)

    def begin(self, channel: Channel, connection: Member) -> list[str]:
        """From now on ``connection`` is told; returns who is there at this moment."""
        watchers = self._watchers.get(channel, {})
        if connection in watchers:  # it may have ended meanwhile
            watchers[connection] = True
        return sorted(user for user in {*self._known(channel), connection.user or NOBODY} if user)

    def unwatch(self, channel: Channel, connection: Member) -> None:
        """``connection`` is told no more."""
        watchers = self._watchers.get(channel)
        if watchers is not None and watchers.pop(connection, None) is not None and not watchers:
            del self._watchers[channel]
            self._released(channel)

    def _released(self, channel: Channel) -> None:
        """Nobody watches any more."""
        del self._here[channel]

    def watches(self, channel: Channel, connection: Member) -> bool:
        """Whether ``connection`` is told."""
        return self._watchers.get(channel, {}).get(connection, False)

    def _known(self, channel: Channel) -> Collection[str]:
        """The users in a watched channel, as far as its watchers were told."""
        return self._here.get(channel, {})

    def tell(self, channel: Channel, event: Literal["join", "leave"], user: str) -> None:
        """Tell the watchers, but not the user's own."""
        watchers = self._watchers.get(channel)
        if not watchers or user == NOBODY:
            return
        envelope = Envelope(
            "presence",
            room=channel.name,
            event=event,
            ts=time.time_ns() // 1_000_000,
            data={"user": user},
        )
        frames: dict[Encoding, bytes] = {}
        for connection, listens in list(watchers.items()):
            if listens and connection.user != user:
                encoding = connection.encoding
                frame = frames.get(encoding)
                if frame is None:
                    frame = frames[encoding] = encoding.encode(envelope)
                connection.outbox.put(frame)


def describe_members(members: Mapping[str, int]) -> dict[str, Any]:
    """What the reply to ``presence`` says."""
    return {
        "members": [
            {"user": user, "connections": number} for user, number in sorted(members.items()) if user
        ],
        "connections": sum(members.values()),
    }
