"""Counts of this node: connections, rooms and their members, messages and bytes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gateway.hub.connection import Connection
from gateway.hub.counters import Counters
from gateway.hub.organisation import Organisation, OrganisationTotals
from gateway.wire.shares import Share

if TYPE_CHECKING:
    from gateway.hub.registry import Registry

__all__ = ["Statistics"]


class Statistics:
    """Answers from what the hub holds, at the time of the question."""

    def __init__(self, hub: Registry) -> None:
        self._hub = hub

    def rooms(self, org: str) -> list[dict[str, Any]]:
        """The organisation's rooms that have members on this node."""
        organisation = self._hub.organisations.get(org)
        if organisation is None:
            return []
        return [
            {
                "room": name,
                "members": room.size,
                "users": len({place.connection.user for place in room.members()} - {None}),
                "seq": room.seq,
                "epoch": room.epoch,
            }
            for name, room in sorted(organisation.rooms.items())
        ]

    def totals(self, org: str | None = None) -> dict[str, int]:
        """Messages and bytes in and out since the start, of ended and of open connections."""
        if org is None:
            shares = [self._hub.flusher.share, *(each.share for each in self._hub.organisations.values())]
            return _sum_traffic(self._hub.counters, self._hub.connections.values(), shares)
        organisation = self._hub.organisations.get(org)
        if organisation is None:
            return _sum_traffic(self._hub.retired.get(org) or OrganisationTotals(), (), ())
        return _sum_traffic(organisation.totals, organisation.connections.values(), (organisation.share,))

    def of(self, org: str | None) -> dict[str, Any]:
        """Counts of one organisation, or with None of the whole node."""
        organisations = self._hub.organisations
        uptime = round(time.time() - self._hub.started_at, 3)
        if org is None:
            return {
                "node": self._hub.node,
                "uptime": uptime,
                "connections": len(self._hub.connections),
                "connections_total": self._hub.counters.connects,
                "disconnections_total": self._hub.counters.disconnects,
                "users": sum(len(o.users) for o in organisations.values()),
                "rooms": sum(len(o.rooms) for o in organisations.values()),
                "organisations": {
                    name: len(organisations[name].connections) for name in sorted(organisations)
                },
                "publishes": self._hub.counters.publishes,
                "deliveries": self._hub.counters.deliveries,
                **self.totals(),
            }
        organisation = organisations.get(org) or Organisation(
            org, self._hub.flusher.share, self._hub.retired.get(org)
        )
        return {
            "node": self._hub.node,
            "uptime": uptime,
            "org": org,
            "connections": len(organisation.connections),
            "connections_total": organisation.totals.connects,
            "disconnections_total": organisation.totals.disconnects,
            "users": len(organisation.users),
            "rooms": {name: organisation.rooms[name].size for name in sorted(organisation.rooms)},
            **self.totals(org),
        }


def _sum_traffic(
    ended: Counters | OrganisationTotals, live: Iterable[Connection], shares: Iterable[Share]
) -> dict[str, int]:
    sums = [ended.messages_in, ended.messages_out, ended.bytes_in, ended.bytes_out]
    for connection in live:
        sums[0] += connection.messages_in
        sums[1] += connection.messages_out
        sums[2] += connection.peer.received_bytes
    sums[3] += sum(share.sent_bytes for share in shares)
    return dict(zip(("messages_in", "messages_out", "bytes_in", "bytes_out"), sums, strict=True))
