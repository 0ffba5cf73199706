"""Counts of this node: connections, rooms and their members, messages and bytes.

An organisation may have a hundred thousand rooms and connections. So each answer is bounded, and made in one
pass in pieces, between which others get their turn; whoever cannot wait has all pieces made in one go.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Iterable
from typing import Any, Final, TypeVar

import trio

from gateway.hub.connection import Connection
from gateway.hub.counters import Counters
from gateway.hub.organisation import Organisation, OrganisationTotals
from gateway.hub.registry import Registry
from gateway.hub.room import Room
from gateway.wire.shares import Share

__all__ = ["MAX_LISTED", "Statistics"]

MAX_LISTED: Final = 1000
"""Rooms of an organisation, or organisations of the node, that one answer names: those with most members."""
_PIECE: Final = 1000
"""Names, members or connections looked at before others get their turn: about half a millisecond."""
_DESCRIBED: Final = 50
"""Connections described before others get their turn."""

T = TypeVar("T")
Pieces = Generator[None, None, T]
"""Work that may be interrupted at each ``yield``, when what it looks at may change."""


class Statistics:
    """Answers from what the hub holds, at the time of the question."""

    def __init__(
        self, registry: Registry, counters: Counters, share: Share, *, node: str, started_at: float
    ) -> None:
        """``share`` is that of connections before their login; ``started_at`` is in seconds since 1970."""
        self._registry = registry
        self._counters = counters
        self._share = share
        self._node = node
        self._started_at = started_at

    def rooms(self, org: str, after: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """The organisation's rooms on this node, by name: at most ``limit`` behind ``after``."""
        return _at_once(self._rooms(org, after, limit))

    async def page_of_rooms(self, org: str, after: str | None, limit: int) -> list[dict[str, Any]]:
        """As :meth:`rooms`, giving way."""
        return await _in_turns(self._rooms(org, after, limit))

    def connections(
        self, org: str, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[dict[str, Any]]:
        """The organisation's connections to this node, the oldest first: at most ``limit`` behind ``after``.

        Of one ``user``, in one ``room``, or all.
        """
        return _at_once(self._connections(org, user, room, after, limit))

    async def page_of_connections(
        self, org: str, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[dict[str, Any]]:
        """As :meth:`connections`, giving way."""
        return await _in_turns(self._connections(org, user, room, after, limit))

    def of(self, org: str | None) -> dict[str, Any]:
        """Counts of one organisation, or with None of the whole node; names at most ``MAX_LISTED``."""
        return _at_once(self._of(org))

    async def count(self, org: str | None) -> dict[str, Any]:
        """As :meth:`of`, giving way."""
        return await _in_turns(self._of(org))

    def totals(self, org: str | None = None) -> dict[str, int]:
        """Messages and bytes in and out since the start, of ended and of open connections."""
        return _at_once(self._totals(org))

    # --- pieces -----------------------------------------------------------------------------------

    def _rooms(self, org: str, after: str | None, limit: int | None) -> Pieces[list[dict[str, Any]]]:
        organisation = self._registry.organisations.get(org)
        if organisation is None:
            return []
        names = list(organisation.rooms)
        first: list[str] = []
        for start in range(0, len(names), _PIECE):
            piece = [name for name in names[start : start + _PIECE] if after is None or name > after]
            first = sorted([*first, *piece]) if limit is None else heapq.nsmallest(limit, [*first, *piece])
            yield
        found = []
        seen = 0
        for name in first:
            room = organisation.rooms.get(name)
            if room is None:
                continue
            found.append((yield from _describe(room)))
            seen += room.size
            if seen >= _PIECE:
                seen = 0
                yield
        return found

    def _connections(
        self, org: str, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> Pieces[list[dict[str, Any]]]:
        organisation = self._registry.organisations.get(org)
        if organisation is None:
            return []
        behind = None if after is None else tuple(after)
        present = list(organisation.connections.values())
        first: list[Connection] = []
        for start in range(0, len(present), _PIECE):
            first += [
                each
                for each in present[start : start + _PIECE]
                if (user is None or each.user == user)
                and (room is None or room in each.memberships)
                and (behind is None or _age(each) > behind)
            ]
            first = sorted(first, key=_age)[:limit]
            yield
        found = []
        for number, connection in enumerate(first, 1):
            if connection.id in organisation.connections:
                found.append(connection.summary())
            if number % _DESCRIBED == 0:
                yield
        return found

    def _totals(self, org: str | None) -> Pieces[dict[str, int]]:
        registry = self._registry
        if org is None:
            shares = [self._share, *(each.share for each in registry.organisations.values())]
            return (yield from _sum_traffic(self._counters, registry.connections.values(), shares))
        organisation = registry.organisations.get(org)
        if organisation is None:
            return (yield from _sum_traffic(registry.retired.get(org) or OrganisationTotals(), (), ()))
        live = organisation.connections.values()
        return (yield from _sum_traffic(organisation.totals, live, (organisation.share,)))

    def _of(self, org: str | None) -> Pieces[dict[str, Any]]:
        registry = self._registry
        organisations = registry.organisations
        common: dict[str, Any] = {"node": self._node, "uptime": round(time.time() - self._started_at, 3)}
        if org is None:
            return {
                **common,
                "connections": len(registry.connections),
                "connections_total": self._counters.connects,
                "disconnections_total": self._counters.disconnects,
                "users": sum(len(o.users) for o in organisations.values()),
                "rooms": sum(len(o.rooms) for o in organisations.values()),
                "organisations": (
                    yield from _largest((name, len(o.connections)) for name, o in list(organisations.items()))
                ),
                "publishes": self._counters.publishes,
                "deliveries": self._counters.deliveries,
                **(yield from self._totals(None)),
            }
        organisation = organisations.get(org) or Organisation[Connection](
            org, self._share, registry.retired.get(org)
        )
        return {
            **common,
            "org": org,
            "connections": len(organisation.connections),
            "connections_total": organisation.totals.connects,
            "disconnections_total": organisation.totals.disconnects,
            "users": len(organisation.users),
            "rooms": (
                yield from _largest((name, room.size) for name, room in list(organisation.rooms.items()))
            ),
            **(yield from self._totals(org)),
        }


def _at_once(pieces: Pieces[T]) -> T:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


async def _in_turns(pieces: Pieces[T]) -> T:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()


def _describe(room: Room) -> Pieces[dict[str, Any]]:
    users: set[str | None] = set()
    members = list(room.members())
    for start in range(0, len(members), _PIECE):
        users.update(place.connection.user for place in members[start : start + _PIECE])
        if start:
            yield
    return {
        "room": room.name,
        "members": len(members),
        "users": len(users - {None}),
        "seq": room.seq,
        "epoch": room.epoch,
    }


def _largest(counts: Iterable[tuple[str, int]]) -> Pieces[dict[str, int]]:
    """The largest ``MAX_LISTED``, by name."""
    largest: list[tuple[int, str]] = []
    for number, (name, count) in enumerate(counts, 1):
        if len(largest) < MAX_LISTED:
            heapq.heappush(largest, (count, name))
        elif count > largest[0][0]:
            heapq.heapreplace(largest, (count, name))
        if number % _PIECE == 0:
            yield
    return {name: count for count, name in sorted(largest, key=_name)}


def _age(connection: Connection) -> tuple[int, str]:
    return connection.connected_at, connection.id


def _name(counted: tuple[int, str]) -> str:
    return counted[1]


def _sum_traffic(
    ended: Counters | OrganisationTotals, live: Iterable[Connection], shares: Iterable[Share]
) -> Pieces[dict[str, int]]:
    open_now = list(live)
    # What an open connection counted goes to the ended ones when it ends, so all that is summed before the
    # first ``yield`` and once only; a connection that ends meanwhile keeps its numbers.
    sums = [ended.messages_in, ended.messages_out, ended.bytes_in, ended.bytes_out]
    sums[3] += sum(share.sent_bytes for share in shares)
    for number, connection in enumerate(open_now, 1):
        sums[0] += connection.messages_in
        sums[1] += connection.messages_out
        sums[2] += connection.peer.received_bytes
        if number % _PIECE == 0:
            yield
    return dict(zip(("messages_in", "messages_out", "bytes_in", "bytes_out"), sums, strict=True))
