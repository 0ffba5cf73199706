"""Connections: listing them, closing them, and statistics."""

from __future__ import annotations

from typing import Any, Final

from gateway.auth.identity import Identity, Permission
from gateway.cluster.base import Cluster, Listing
from gateway.operations.rules import organisation, permit, require_service
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.names import check_room

__all__ = ["Connections"]

_PRIVATE: Final = ("ip", "user_agent", "client_id", "meta", "events", "except", "queue")
"""What members see of their own connections only."""
_MAX_REASON: Final = 100


class Connections:
    """Queries about connections, and closing them."""

    __slots__ = ("_cluster",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def list(
        self,
        identity: Identity,
        *,
        user: str | None = None,
        room: str | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
        org: str | None = None,
    ) -> Listing:
        """At most ``limit`` open connections, oldest first, ``after`` a (connected_at, id).

        Of one ``user``, or in one ``room``, which needs the permission ``presence`` there. Members see of
        others what :meth:`one` returns. Raises FORBIDDEN, WRONG_ORGANISATION and 3xx.
        """
        org = organisation(identity, org)
        if room is not None:
            permit(identity, check_room(room), Permission.PRESENCE)
        found, missing = await self._cluster.connections(org, user=user, room=room, after=after, limit=limit)
        return Listing([_shown(each, identity) for each in found], missing)

    async def one(self, identity: Identity, connection: str, *, org: str | None = None) -> dict[str, Any]:
        """The data of one connection; raises NOT_FOUND.

        Members see address, user agent, client id and filters of their own user's only, and for others the
        rooms whose presence they may read.
        """
        org = organisation(identity, org)
        return _shown(await self._cluster.connection(org, connection), identity)

    async def disconnect(
        self,
        identity: Identity,
        connection: str,
        *,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by an administrator",
        org: str | None = None,
    ) -> None:
        """Close a connection with ``code`` and a ``reason`` of at most 100 bytes.

        Members may close those of their own user; others need the role service. Raises FORBIDDEN, NOT_FOUND,
        BAD_FIELD.
        """
        org = organisation(identity, org)
        if len(reason.encode()) > _MAX_REASON:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"reason: must not be longer than {_MAX_REASON} bytes")
        only_of = None
        if not identity.is_service:
            if identity.user is None:
                require_service(identity)
            only_of = identity.user
        await self._cluster.disconnect(org, connection, code, reason, only_of=only_of)

    async def stats(
        self, identity: Identity, *, org: str | None = None, everything: bool = False
    ) -> dict[str, Any]:
        """Counts of this node, and under ``cluster`` of all nodes: of an organisation, or of ``everything``.

        Members see the rooms whose presence they may read. ``everything`` is for admins: raises FORBIDDEN.
        """
        if everything and not identity.is_admin:
            raise ProtocolError(ErrorCode.FORBIDDEN, "statistics of all organisations need the role admin")
        counts = await self._cluster.stats(None if everything else organisation(identity, org))
        if not identity.is_service:
            allows = identity.grants.allows
            for part in (counts, counts["cluster"]):
                rooms = part.get("rooms", {})
                part["rooms"] = {
                    room: members for room, members in rooms.items() if allows(room, Permission.PRESENCE)
                }
        return counts


def _shown(known: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """What of a connection the caller may see."""
    own = identity.user is not None and known.get("user") == identity.user and known["org"] == identity.org
    if identity.is_service or own:
        return known
    for name in _PRIVATE:
        known.pop(name, None)
    # Filters are of nobody else's business, and neither is a room whose presence the caller may not see.
    known["rooms"] = [
        {"room": each["room"], "seq": each["seq"]}
        for each in known["rooms"]
        if identity.grants.allows(each["room"], Permission.PRESENCE)
    ]
    return known
