"""What the rest of a gateway asks of all nodes together, whether there is one or a hundred."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import trio

from gateway.auth.identity import Identity
from gateway.hub.hub import Sent

__all__ = ["Cluster", "Listing"]


class Listing(NamedTuple):
    """A run of what there is, in order."""

    items: list[dict[str, Any]]
    missing: list[str]
    """Nodes that should have been asked and did not answer."""


class Cluster(Protocol):
    """All nodes, seen from one.

    Whatever concerns other nodes raises ``ProtocolError`` BROKER_UNAVAILABLE while they cannot be reached,
    and TIMEOUT when a node that had to answer did not: then it may have been done all the same.
    """

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; ``started`` is called when the others know of this node."""

    def ready(self) -> str | None:
        """None when this node knows what all know, else the reason why not."""

    def warnings(self) -> list[str]:
        """What an operator should see to although this node works: settings or clocks that differ."""

    async def leave(self) -> None:
        """This node's connections have ended: take back what the others know of it."""

    async def stats(self, org: str | None) -> dict[str, Any]:
        """Counts of this node, and under ``cluster`` of all; of one organisation, or of everything."""

    async def connections(
        self, org: str, *, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> Listing:
        """At most ``limit`` open connections, the oldest first, ``after`` a (connected_at, id)."""

    async def connection(self, org: str, connection_id: str) -> dict[str, Any]:
        """What is known of one connection; raises NOT_FOUND."""

    async def rooms(self, org: str, *, after: str | None, limit: int) -> Listing:
        """At most ``limit`` rooms that somebody is in, by name, ``after`` a name."""

    async def send(
        self,
        org: str,
        event: str,
        data: Any,
        *,
        user: str | None = None,
        connection: str | None = None,
        sender: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> Sent:
        """Send to all connections of ``user``, or to one ``connection``; raises NOT_FOUND, BAD_EVENT.

        What goes to a user and is not ``ephemeral`` has a place in the user's order.
        """

    async def disconnect(
        self, org: str, connection_id: str, code: int, reason: str, *, only_of: str | None = None
    ) -> None:
        """Close a connection; with ``only_of`` only when it is that user's. Raises NOT_FOUND, FORBIDDEN."""

    async def revoke(self, org: str, *, jti: str | None, user: str | None) -> int:
        """Refuse a token, or all of a user or organisation until now, everywhere; closes its connections.

        Returns how many were closed. Raises OVERLOADED when ``auth.max_revocations`` are held.
        """

    async def issue_ticket(self, identity: Identity) -> str:
        """A ticket that stands for ``identity`` once, on any node; raises OVERLOADED."""

    async def redeem_ticket(self, ticket: str) -> Identity:
        """Who is behind a ticket; raises UNAUTHENTICATED, and what the token behind it deserves."""

    async def take_over(self, org: str, user: str | None, token: str) -> bytes:
        """Close the open connection with this resume token, where it is another node's; returns what it had.

        Empty when there is none, or when its node does not answer.
        """

    async def trace(self, org: str, mid: str, *, user: str | None) -> dict[str, Any] | None:
        """What became of a message; None when no node has traced it."""

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
