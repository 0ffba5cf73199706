"""What one node does for all: the answers to the questions of ``base.py``, about this node alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.auth.revocation import Revocations
from gateway.hub.hub import Hub, Sent
from protocol.errors import CloseCode, ErrorCode, ProtocolError

__all__ = ["Local"]


class Local:
    """This node. Every method returns at once."""

    def __init__(self, hub: Hub, revocations: Revocations) -> None:
        self.hub = hub
        self._revocations = revocations
        self._operations: dict[str, Callable[..., Any]] = {
            "stats": self.stats,
            "connections": self.connections,
            "connection": self.connection,
            "rooms": self.rooms,
            "send": self.send,
            "wanting": self.wanting,
            "disconnect": self.disconnect,
            "revoked": self.revoked,
            "take_over": self.take_over,
            "trace": self.trace,
        }

    def answer(self, operation: str, data: dict[str, Any]) -> Any:
        """Do what another node asks for; raises ``ProtocolError``."""
        found = self._operations.get(operation)
        if found is None:  # of a node with a later version
            raise ProtocolError(ErrorCode.UNKNOWN_CALL, f"node {self.hub.node} does not know {operation!r}")
        return found(**data)

    def stats(self, org: str | None) -> dict[str, Any]:
        """Counts."""
        return self.hub.statistics.of(org)

    def connections(
        self, org: str, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[dict[str, Any]]:
        """See ``Cluster.connections``."""
        organisation = self.hub.organisations.get(org)
        behind = None if after is None else tuple(after)
        found = [
            connection
            for connection in (() if organisation is None else organisation.connections.values())
            if (user is None or connection.user == user)
            and (room is None or room in connection.memberships)
            and (behind is None or (connection.connected_at, connection.id) > behind)
        ]
        found.sort(key=lambda each: (each.connected_at, each.id))
        return [connection.summary() for connection in found[:limit]]

    def connection(self, org: str, id: str) -> dict[str, Any]:
        """See ``Cluster.connection``."""
        return self.hub.find(org, id).describe()

    def rooms(self, org: str, after: str | None, limit: int) -> list[dict[str, Any]]:
        """See ``Cluster.rooms``."""
        return self.hub.statistics.rooms(org, after, limit)

    def send(
        self,
        org: str,
        event: str,
        data: Any,
        user: str | None,
        connection: str | None,
        sender: str | None,
        mid: str | None,
    ) -> Sent:
        """See ``Cluster.send``; what is for a user comes through the broker."""
        if connection is None:
            raise ProtocolError(ErrorCode.BAD_FIELD, "connection: is missing")
        return self.hub.send_to_connection(org, connection, event, data, sender=sender, mid=mid)

    def wanting(self, org: str, user: str, event: str) -> int:
        """How many connections of a user to this node want events of this name."""
        return self.hub.wanting(org, user, event)

    def disconnect(self, org: str, id: str, code: int, reason: str, only_of: str | None) -> None:
        """See ``Cluster.disconnect``."""
        if only_of is not None and self.hub.find(org, id).user != only_of:
            raise ProtocolError(ErrorCode.FORBIDDEN, "this needs the role service or admin")
        self.hub.disconnect(org, id, code, reason)

    def revoked(self, org: str, jti: str | None, user: str | None, at: float) -> int:
        """Another node has revoked something ``at`` this time; returns how many that closed here."""
        self._revocations.learn(org=org, jti=jti, user=user, at=at)
        return self.close_revoked()

    def close_revoked(self) -> int:
        """Close the connections whose token is no longer good; returns how many."""
        return self.hub.close_matching(
            lambda connection: self._revocations.is_revoked(connection.identity),
            CloseCode.POLICY_VIOLATION,
            "the token was revoked",
        )

    def take_over(self, org: str, user: str | None, token: str) -> str:
        """See ``Cluster.take_over``."""
        return self.hub.take_over(org, user, token).decode()

    def trace(self, org: str, mid: str, user: str | None) -> dict[str, Any] | None:
        """See ``Cluster.trace``."""
        return self.hub.trace(org, mid, user=user)
