"""What the client hands out: events, losses, and the replies to commands."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from protocol.errors import ProtocolError
from protocol.events import from_data
from protocol.registry import EventTypes

__all__ = [
    "ConnectionInfo",
    "Decision",
    "Event",
    "Filter",
    "HistoryPage",
    "Joined",
    "Limits",
    "Lost",
    "Member",
    "Position",
    "Presence",
    "PresenceChange",
    "Published",
    "Refreshed",
    "Sent",
]


class Position(NamedTuple):
    """A position in a room's order; accepted by ``since``."""

    epoch: str
    seq: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it was received."""

    event: str
    room: str | None = None
    """None: sent to the organisation, the user or this connection; ``to`` tells which."""
    data: Any = None
    seq: int | None = None
    """Place in the order of the room, the organisation or the user; None when it has none."""
    epoch: str | None = None
    ts: int | None = None
    """Milliseconds since 1970 UTC."""
    mid: str | None = None
    sender: str | None = None
    to: str | None = None
    """``"user"`` of what was sent to the user, ``"connection"`` of what was to this connection alone."""
    critical: bool = False
    """It overtook what was queued for this client: events with a lower ``seq`` may still come."""

    def typed(self, types: EventTypes | None = None) -> Any:
        """The typed event that this is: an object of ``types``, or a ``Custom`` where its name has no type.

        Without ``types`` those of the catalogue count (``protocol.events``). Raises ValueError when the data
        do not fit the type: whoever published it may be another release.
        """
        try:
            return from_data(self.event, self.data) if types is None else types.read(self.event, self.data)
        except ProtocolError as error:
            raise ValueError(error.message) from None


class Lost(Event, frozen=True, kw_only=True):
    """In the place of events that did not arrive, or may not have. Its ``event`` is ``"lost"``.

    ``epoch``, ``from_seq`` and ``to_seq`` say which (``to_seq`` None: everything up to where the room
    goes on). ``reason`` is the gateway's (such as ``slow``) or one of the client's own:

    ``history``
        the gateway no longer keeps everything that was missed while there was no connection;
    ``epoch``
        the room's order began anew, so nobody can tell what followed ``from_seq`` in the old one;
    ``disconnected``
        events to the whole organisation (``room`` is None) went by while there was no connection; counts
        those that a filter would have held back;
    ``refused: …``
        the gateway did not let the client back into the room, which it is no longer in.

    What the gateway still keeps comes with ``join(room, since=(lost.epoch, lost.from_seq - 1))``.
    """

    event: str = "lost"
    from_seq: int
    to_seq: int | None
    reason: str


class PresenceChange(Event, frozen=True, kw_only=True):
    """A user has entered or left a room that was joined with ``presence``.

    Its ``event`` is ``"join"`` or ``"leave"``. After an interruption there is one for every user who entered
    or left meanwhile, so the changes always add up to the users in the room.
    """

    user: str


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's limits for one connection; the defaults are those of the gateway."""

    message_bytes: int = 2**20
    rooms: int | None = None
    patterns: int | None = None


class Place(msgspec.Struct, frozen=True):
    """A position as the gateway writes it."""

    epoch: str
    seq: int


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's greeting of a connection."""

    connection: str
    org: str
    user: str | None = None
    node: str | None = None
    heartbeat: float | None = None
    """Seconds between the gateway's pings."""
    subprotocol: str | None = None
    limits: Limits = Limits()
    expires: int | None = None
    """Milliseconds since 1970 UTC at which the token expires."""
    resume: str | None = None
    """What brings this connection's rooms and filter back on another one; the client uses it by itself."""
    positions: dict[str, Place] = {}
    """Where the orders of the ``organisation`` and the ``user`` were when the connection was made."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a published event."""

    room: str | None
    epoch: str | None
    seq: int | None
    mid: str


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The room's position at the join; with ``since`` also the outcome for the events after it."""

    room: str
    epoch: str
    seq: int
    recovered: bool | None = None
    """True: nothing is missing. None: joined without ``since``."""
    replayed: int = 0
    users: tuple[str, ...] | None = None
    """Who is in the room, when it was joined with ``presence``."""

    @property
    def position(self) -> Position:
        """Of the newest event of the room."""
        return Position(self.epoch, self.seq)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """The connection's whole event filter."""

    events: tuple[str, ...]
    excepted: tuple[str, ...] = msgspec.field(default=(), name="except")


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """The new token is in use."""

    expires: int | None = None
    """Milliseconds since 1970 UTC."""
    left: tuple[str, ...] = ()
    """Rooms that the new token does not permit, and which the client is no longer in."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """``connections`` is the number of connections that the event was queued for, on all nodes that
    answered.
    """

    mid: str | None
    connections: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an approval."""

    id: str
    status: str
    """``"decided"``, or ``"expired"`` when its deadline was over and no choice was to take its place."""
    choice: str | None = None
    """One of the choices; None when it expired."""
    user: str | None = None
    """Who decided; None for the deadline."""
    comment: str | None = None
    fallback: bool = False
    """The deadline decided."""
    at: int | None = None
    """Milliseconds since 1970 UTC."""


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A run of kept events, oldest first."""

    room: str
    events: tuple[Event, ...]
    epoch: str
    seq: int
    """Of the newest event of the room."""
    more: bool
    """More kept events follow the last one of this page."""
    complete: bool
    """False: events after ``since`` are gone."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A user in a room; None for connections without a user."""

    user: str | None = None
    connections: int


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """The users in a room."""

    members: tuple[Member, ...]
    connections: int
