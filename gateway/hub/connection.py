"""What is known of one connection."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from gateway.auth.identity import Identity
from gateway.broker.base import Event
from gateway.hub.lag import Backlog
from gateway.hub.organisation import Organisation
from gateway.hub.peer import Peer
from gateway.hub.room import Membership
from protocol.encoding import Encoding
from protocol.patterns import EventFilter

__all__ = ["Connection"]


_SUMMARY: Final = 2048
"""Bytes of rooms with their filters, and of the connection's own filter, that a list shows of one
connection."""
_TRANSPORTS: Final = frozenset({"sse", "poll", "post"})
_ENTRY: Final = 64
"""What an entry for a room takes beside its names."""


class Connection:
    """One authenticated connection: who it is, what it joined, what it wants to hear."""

    __slots__ = (
        "_backlog",
        "client_id",
        "connected_at",
        "encoding",
        "filter",
        "id",
        "identity",
        "internal",
        "ip",
        "last_activity",
        "memberships",
        "node",
        "organisation",
        "outbox",
        "patient",
        "peer",
        "user_agent",
    )

    def __init__(
        self,
        *,
        id: str,
        node: str,
        organisation: Organisation[Connection],
        identity: Identity,
        encoding: Encoding,
        peer: Peer,
        ip: str,
        user_agent: str | None,
        client_id: str | None,
        patient: bool = False,
    ) -> None:
        self.id = id
        self.node = node
        self.organisation = organisation
        self.identity = identity
        self.encoding = encoding
        self.peer = peer
        self.outbox = peer.outbox
        self.ip = ip
        self.user_agent = user_agent
        self.client_id = client_id
        self.patient = patient
        """It waits for what comes: where it stands is told by what has come to this node, and the broker need
        not be asked what is still on its way."""
        self.connected_at = self.last_activity = int(time.time() * 1000)
        self.filter = EventFilter.ALL
        self.memberships: dict[str, Membership] = {}
        self.internal: tuple[Membership, ...] = ()
        """Places in the organisation's and the user's own channel."""
        self._backlog: Backlog | None = None

    @property
    def backlog(self) -> Backlog:
        """What its lagging rooms keep, made when one lags for the first time."""
        if self._backlog is None:
            outbox = self.outbox
            self._backlog = Backlog(max_messages=outbox.max_messages, max_bytes=outbox.max_bytes)
        return self._backlog

    @property
    def org(self) -> str:
        """The organisation's name."""
        return self.identity.org

    @property
    def user(self) -> str | None:
        """The user, or None for a token without one."""
        return self.identity.user

    @property
    def transport(self) -> str:
        """What carries it: ``websocket``, ``sse`` or ``poll``."""
        name = self.encoding.subprotocol
        return name if name in _TRANSPORTS else "websocket"

    @property
    def places(self) -> tuple[Membership, ...]:
        """Those in its organisation and in its user, then those in rooms."""
        return (*self.internal, *self.memberships.values())

    @property
    def rooms(self) -> list[str]:
        """Names of the joined rooms."""
        return list(self.memberships)

    @property
    def messages_in(self) -> int:
        """Messages received from the client."""
        return self.peer.received_messages

    @property
    def messages_out(self) -> int:
        """Messages sent to the client."""
        return max(0, self.outbox.sent_messages)

    def excluded_from(self, event: Event) -> bool:
        """Tell whether the event names this connection or its user as one to leave out."""
        return self.id == event.exclude_connection or (
            event.exclude is not None and self.identity.user in event.exclude
        )

    def summary(self) -> dict[str, Any]:
        """As :meth:`describe`, for lists: rooms and filters up to ``_SUMMARY`` bytes, ``cut`` when there
        are more.

        Only what it names is looked at, so that a page of a thousand connections stays small and quick.
        """
        left = _SUMMARY
        rooms = []
        for name, place in self.memberships.items():
            left -= _ENTRY + len(name) + sum(map(len, place.events.events))
            if left < 0:
                break
            rooms.append(self._describe_room(name, place))
        whole = self._describe(rooms)
        if len(rooms) < len(self.memberships):
            whole["cut"] = True
        left = _SUMMARY
        for which in ("events", "except"):
            left -= sum(map(len, whole[which]))
            if left < 0:
                del whole[which]
                whole["cut"] = True
        return whole

    def describe(self) -> dict[str, Any]:
        """The data of ``info`` (docs/protocol.md)."""
        return self._describe([self._describe_room(*each) for each in self.memberships.items()])

    def _describe_room(self, name: str, place: Membership) -> dict[str, Any]:
        return {
            "room": name,
            "seq": place.room.seq,
            "events": list(place.events.events),
            "acked": None if place.acked is None else place.acked.seq,
        }

    def _describe(self, rooms: list[dict[str, Any]]) -> dict[str, Any]:
        identity = self.identity
        whole = {
            "connection": self.id,
            "org": identity.org,
            "user": identity.user,
            "roles": sorted(identity.roles),
            "node": self.node,
            "connected_at": self.connected_at,
            "last_activity": self.last_activity,
            "ip": self.ip,
            "user_agent": self.user_agent,
            "client_id": self.client_id,
            "meta": msgspec.json.decode(identity.meta) if identity.meta else None,
            "subprotocol": self.encoding.subprotocol,
            "transport": self.transport,
            "rooms": rooms,
            "events": list(self.filter.events),
            "except": list(self.filter.excepted),
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
            "queue": {"messages": self.outbox.waiting, "bytes": self.outbox.size},
            "expires": None if identity.expires is None else int(identity.expires * 1000),
        }
        return {key: value for key, value in whole.items() if value is not None}
