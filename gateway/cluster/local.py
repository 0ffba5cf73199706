"""What one node does for all: the answers to the requests of ``requests.py``, about this node alone."""

from __future__ import annotations

from typing import Any

from gateway.auth.revocation import Revocations
from gateway.cluster import requests
from gateway.cluster.answering import Handlers
from gateway.hub.hub import Hub, Sent
from protocol.errors import CloseCode, ErrorCode, ProtocolError

__all__ = ["Local"]


class Local:
    """This node; each method carries out one kind of request, for this node's callers and for other nodes.

    What looks at many entries gives way to other tasks meanwhile.
    """

    def __init__(self, hub: Hub, revocations: Revocations) -> None:
        self._hub = hub
        self._revocations = revocations
        self.handlers: Handlers = {
            requests.Stats: self.stats,
            requests.Connections: self.connections,
            requests.Connection: self.connection,
            requests.Rooms: self.rooms,
            requests.Send: self._send_for_another,
            requests.Wanting: self.wanting,
            requests.Disconnect: self.disconnect,
            requests.Revoked: self.revoked,
            requests.TakeOver: self.take_over,
            requests.Trace: self.trace,
        }

    async def stats(self, wanted: requests.Stats) -> dict[str, Any]:
        """Counts."""
        return await self._hub.statistics.count(wanted.org)

    async def connections(self, wanted: requests.Connections) -> list[dict[str, Any]]:
        """See ``Cluster.connections``."""
        return await self._hub.statistics.page_of_connections(
            wanted.org, wanted.user, wanted.room, wanted.after, wanted.limit
        )

    async def connection(self, wanted: requests.Connection) -> dict[str, Any]:
        """See ``Cluster.connection``."""
        return self._hub.find(wanted.org, wanted.id).describe()

    async def rooms(self, wanted: requests.Rooms) -> list[dict[str, Any]]:
        """See ``Cluster.rooms``."""
        return await self._hub.statistics.page_of_rooms(wanted.org, wanted.after, wanted.limit)

    async def send(self, wanted: requests.Send) -> Sent:
        """See ``Cluster.send``; for a user it gets its place once, however many nodes were asked for it."""
        what, sender, mid = (wanted.event, wanted.data), wanted.sender, wanted.mid
        if wanted.user is not None:
            return await self._hub.send_to_user(wanted.org, wanted.user, *what, sender=sender, mid=mid)
        return self._hub.send_to_connection(
            wanted.org, wanted.connection or "", *what, sender=sender, mid=mid
        )

    async def _send_for_another(self, wanted: requests.Send) -> tuple[str, int]:
        """The places of the answer that every release understands."""
        sent = await self.send(wanted)
        return sent.mid, sent.connections

    async def wanting(self, wanted: requests.Wanting) -> int:
        """How many connections of a user to this node want events of this name."""
        return self._hub.wanting(wanted.org, wanted.user, wanted.event)

    async def disconnect(self, wanted: requests.Disconnect) -> None:
        """See ``Cluster.disconnect``."""
        if wanted.only_of is not None and self._hub.find(wanted.org, wanted.id).user != wanted.only_of:
            raise ProtocolError(ErrorCode.FORBIDDEN, "this needs the role service or admin")
        self._hub.disconnect(wanted.org, wanted.id, wanted.code, wanted.reason)

    async def revoked(self, wanted: requests.Revoked) -> int:
        """Another node has revoked something; returns how many connections that closed here."""
        self._revocations.learn(org=wanted.org, jti=wanted.jti, user=wanted.user, at=wanted.at)
        return self.close_revoked()

    def close_revoked(self) -> int:
        """Close the connections whose token is no longer good; returns how many."""
        return self._hub.close_matching(
            lambda connection: self._revocations.is_revoked(connection.identity),
            CloseCode.POLICY_VIOLATION,
            "the token was revoked",
        )

    async def take_over(self, wanted: requests.TakeOver) -> str:
        """See ``Cluster.take_over``."""
        return self._hub.take_over(wanted.org, wanted.user, wanted.token).decode()

    async def trace(self, wanted: requests.Trace) -> dict[str, Any] | None:
        """See ``Cluster.trace``."""
        return self._hub.trace(wanted.org, wanted.mid, user=wanted.user)
