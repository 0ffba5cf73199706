"""What was said in a room, who is there, and which rooms there are."""

from __future__ import annotations

from typing import Any, Final, Literal

import trio

from gateway.auth.identity import Identity, Permission
from gateway.broker.base import (
    Channel,
    Event,
    HistoryPage,
    Since,
    organisation_channel,
    room_channel,
    user_channel,
)
from gateway.cluster.base import Cluster, Listing
from gateway.hub.hub import Hub
from gateway.hub.presence import describe_members
from gateway.operations.rules import organisation, permit
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_room
from protocol.sizes import HEAD_BYTES, WORST_GROWTH, largest_size

__all__ = ["Rooms"]

_RUN: Final = 1000
"""Rooms that are looked at in one go, where the caller may see only some."""


class Rooms:
    """Questions about rooms."""

    __slots__ = ("_cluster", "_hub", "_largest_page", "_message_bytes")

    def __init__(self, hub: Hub, cluster: Cluster, *, largest_page: int, message_bytes: int) -> None:
        self._hub = hub
        self._cluster = cluster
        self._largest_page = largest_page
        self._message_bytes = message_bytes

    async def history(
        self,
        identity: Identity,
        room: str | None,
        *,
        since: Since | None = None,
        limit: int | None = None,
        org: str | None = None,
    ) -> HistoryPage:
        """At most ``limit`` kept events of a room, the oldest first: those after ``since``, or the newest.

        Events that exclude the caller are left out. A page has at most ``history.page`` events, also when
        ``limit`` is larger or None, and takes no more than ``limits.message_bytes`` unless its only event
        does; ``more`` says whether to ask on. Raises FORBIDDEN without the permission
        ``history``; BAD_FIELD for a ``limit`` below 1 or a negative position; BROKER_UNAVAILABLE, TIMEOUT.
        """
        org = organisation(identity, org)
        room = check_room(room)
        permit(identity, room, Permission.HISTORY)
        return await self._history(identity, room_channel(org, room), since, limit)

    async def own_history(
        self,
        identity: Identity,
        of: Literal["organisation", "user"],
        *,
        since: Since | None = None,
        limit: int | None = None,
    ) -> HistoryPage:
        """As :meth:`history`, of what the caller's organisation or user was sent.

        Raises BAD_FIELD for a user where the token names none.
        """
        if of == "organisation":
            return await self._history(identity, organisation_channel(identity.org), since, limit)
        if identity.user is None:
            raise ProtocolError(ErrorCode.BAD_FIELD, "data.of: this token has no user")
        return await self._history(identity, user_channel(identity.org, identity.user), since, limit)

    async def _history(
        self, identity: Identity, channel: Channel, since: Since | None, limit: int | None
    ) -> HistoryPage:
        if limit is not None and limit < 1:
            raise ProtocolError(ErrorCode.BAD_FIELD, "limit: must be at least 1")
        limit = self._largest_page if limit is None else min(limit, self._largest_page)
        page = await self._hub.history_of(channel, since=since, limit=limit, reader=identity.user)
        return await self._fitting(page, newest=since is None)

    async def _fitting(self, page: HistoryPage, *, newest: bool) -> HistoryPage:
        """As much of the page as fits into a message that clients expect."""
        if sum(each.size * WORST_GROWTH + HEAD_BYTES for each in page.events) <= self._message_bytes:
            return page
        kept: list[Event] = []
        room = self._message_bytes - HEAD_BYTES
        for event in page.events[::-1] if newest else page.events:
            room -= largest_size(event.envelope())
            if room < 0 and kept:
                break
            kept.append(event)
            await trio.lowlevel.checkpoint()  # each may be a megabyte
        if newest:
            return page._replace(events=kept[::-1])
        return page._replace(events=kept, more=page.more or len(kept) < len(page.events))

    async def presence(
        self, identity: Identity, room: str | None, *, org: str | None = None
    ) -> dict[str, Any]:
        """The users in a room, on all nodes: ``members`` (user, connections) and the sum of ``connections``.

        Raises FORBIDDEN without the permission ``presence``, and 3xx when other nodes' users are not known.
        """
        org = organisation(identity, org)
        room = check_room(room)
        permit(identity, room, Permission.PRESENCE)
        return describe_members(await self._hub.presence.members(org, room))

    async def list(
        self, identity: Identity, *, after: str | None = None, limit: int, org: str | None = None
    ) -> Listing:
        """At most ``limit`` rooms that somebody is in, by name, ``after`` a name.

        Members see those whose presence they may see. ``limit`` is from 1 to 1001.
        """
        org = organisation(identity, org)
        if identity.is_service:
            return await self._cluster.rooms(org, after=after, limit=limit)
        allows = identity.grants.allows
        found: list[dict[str, Any]] = []
        missing: set[str] = set()
        while len(found) < limit:
            rooms, silent = await self._cluster.rooms(org, after=after, limit=_RUN)
            found += [room for room in rooms if allows(room["room"], Permission.PRESENCE)]
            missing.update(silent)
            if len(rooms) < _RUN:
                break
            after = rooms[-1]["room"]
            await trio.lowlevel.checkpoint()
        return Listing(found[:limit], sorted(missing))
