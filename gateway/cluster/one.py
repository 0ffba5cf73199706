"""A node that is alone: it is the whole."""

from __future__ import annotations

from typing import Any

import trio

from gateway.auth.identity import Identity
from gateway.auth.tokens import Authenticator
from gateway.cluster import requests
from gateway.cluster.base import Listing
from gateway.cluster.local import Local
from gateway.cluster.merging import whole_of
from gateway.hub.hub import Hub, Sent

__all__ = ["OneNode"]


class OneNode:
    """A :class:`~gateway.cluster.base.Cluster` of one; waits for no other node, so never raises for that."""

    def __init__(self, hub: Hub, auth: Authenticator) -> None:
        self._hub = hub
        self._local = Local(hub, auth.revocations)
        self._auth = auth

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        task_status.started()

    def ready(self) -> str | None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return None

    def warnings(self) -> list[str]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return []

    async def leave(self) -> None:
        """See :class:`~gateway.cluster.base.Cluster`. There is nobody to tell."""

    async def stats(self, org: str | None) -> dict[str, Any]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        mine = await self._local.stats(requests.Stats(org))
        node = {"id": mine["node"], "node": mine["node"], "connections": mine["connections"]}
        return {**mine, "cluster": {"nodes": [node], "missing": [], **whole_of([mine])}}

    async def connections(
        self, org: str, *, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> Listing:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return Listing(await self._local.connections(requests.Connections(org, user, room, after, limit)), [])

    async def connection(self, org: str, connection_id: str) -> dict[str, Any]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return await self._local.connection(requests.Connection(org, connection_id))

    async def rooms(self, org: str, *, after: str | None, limit: int) -> Listing:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return Listing(await self._local.rooms(requests.Rooms(org, after, limit)), [])

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
        """See :class:`~gateway.cluster.base.Cluster`."""
        if user is not None:
            return await self._hub.send_to_user(
                org, user, event, data, sender=sender, mid=mid, ephemeral=ephemeral
            )
        assert connection is not None
        return await self._local.send(requests.Send(org, event, data, connection, sender, mid))

    async def disconnect(
        self, org: str, connection_id: str, code: int, reason: str, *, only_of: str | None = None
    ) -> None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        await self._local.disconnect(requests.Disconnect(org, connection_id, code, reason, only_of))

    async def revoke(self, org: str, *, jti: str | None, user: str | None) -> int:
        """See :class:`~gateway.cluster.base.Cluster`."""
        self._auth.revocations.revoke(jti=jti, user=user, org=org)
        return self._local.close_revoked()

    async def issue_ticket(self, identity: Identity) -> str:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return self._auth.tickets.issue(identity)

    async def redeem_ticket(self, ticket: str) -> Identity:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return self._auth.tickets.redeem(ticket)

    async def take_over(self, org: str, user: str | None, token: str) -> bytes:
        """See :class:`~gateway.cluster.base.Cluster`. There is no other node."""
        return b""

    async def trace(self, org: str, mid: str, *, user: str | None) -> dict[str, Any] | None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return await self._local.trace(requests.Trace(org, mid, user))

    def measures(self) -> dict[str, tuple[str, float]]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return {}
