"""The bodies of requests and answers about rooms."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.rest.models import Cursor, Limit, Milliseconds, Missing, Org

__all__ = [
    "History",
    "HistoryQuery",
    "PastEvent",
    "Presence",
    "PresentUser",
    "RoomInfo",
    "RoomPage",
    "RoomQuery",
]


class RoomInfo(msgspec.Struct):
    """A room that somebody is in."""

    room: str
    members: int
    users: int
    seq: int
    epoch: str


class RoomPage(msgspec.Struct, omit_defaults=True):
    """Rooms with a member, by name."""

    rooms: list[RoomInfo]
    next: Cursor | None = None
    missing: Missing | None = None


class RoomQuery(msgspec.Struct):
    org: Org | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class HistoryQuery(msgspec.Struct):
    org: Org | None = None
    epoch: Annotated[str, msgspec.Meta(description="With `seq`: of the last event that is known.")] | None = (
        None
    )
    seq: Annotated[int, msgspec.Meta(ge=0, description="Only later events.")] | None = None
    limit: Limit | None = None


class PastEvent(msgspec.Struct, omit_defaults=True):
    seq: int
    event: str
    ts: Milliseconds
    mid: str
    data: Any = None
    sender: str | None = None


class History(msgspec.Struct):
    """Kept events of a room, the oldest first."""

    room: str
    epoch: str
    seq: Annotated[int, msgspec.Meta(description="Position of the room now.")]
    events: list[PastEvent]
    more: Annotated[bool, msgspec.Meta(description="Later events are kept than the last one here.")]
    complete: Annotated[bool, msgspec.Meta(description="No event after `seq` of the query is gone.")]


class PresentUser(msgspec.Struct):
    user: str
    connections: int


class Presence(msgspec.Struct):
    """Who is in a room, on this node."""

    room: str
    members: list[PresentUser]
    connections: Annotated[int, msgspec.Meta(description="Also those without a user.")]
