"""Rooms: which there are, what was said, who is there."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from quart import Blueprint, Response

from gateway.broker.base import Since
from gateway.rest.http import caller, page, read_cursor, read_query, reply
from gateway.rest.models import Cursor, Limit, Milliseconds, Missing, Org, OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["blueprint"]

blueprint = Blueprint("rooms", __name__)


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
    epoch: Annotated[str, msgspec.Meta(description="With `seq`: the last known event.")] | None = None
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
    """Kept events of a room, oldest first."""

    room: str
    epoch: str
    seq: Annotated[int, msgspec.Meta(description="The room's present position.")]
    events: list[PastEvent]
    more: Annotated[bool, msgspec.Meta(description="There are later events than the last one here.")]
    complete: Annotated[
        bool, msgspec.Meta(description="False if events after `seq` of the query were removed.")
    ]


class PresentUser(msgspec.Struct):
    user: str
    connections: int


class Presence(msgspec.Struct):
    """Who is in a room, on this node."""

    room: str
    members: list[PresentUser]
    connections: Annotated[int, msgspec.Meta(description="Including those without a user.")]


@blueprint.get("/rooms")
@operation(tags="rooms", query=RoomQuery, answer=RoomPage)
async def list_rooms() -> Response:
    """List the rooms with members, by name.

    Members see those whose presence they may read.
    """
    identity = await caller()
    query = read_query(RoomQuery)
    found, missing = await services().operations.rooms.list(
        identity, after=read_cursor(query.cursor, str), limit=query.limit + 1, org=query.org
    )
    found, cursor = page(found, key=lambda room: str(room["room"]), limit=query.limit)
    answer: dict[str, Any] = {"rooms": found}
    if cursor is not None:
        answer["next"] = cursor
    if missing:
        answer["missing"] = missing
    return reply(answer)


@blueprint.get("/rooms/<name:room>/history")
@operation(tags="rooms", query=HistoryQuery, answer=History)
async def get_history(room: str) -> Response:
    """Read the kept events of a room, oldest first.

    With `epoch` and `seq` those after that event, otherwise the newest. For the next page pass
    `epoch` of the answer and `seq` of its last event.
    """
    identity = await caller()
    query = read_query(HistoryQuery)
    if (query.epoch is None) != (query.seq is None):
        raise ProtocolError(ErrorCode.MISSING_FIELD, "epoch and seq go together")
    since = None if query.epoch is None or query.seq is None else Since(query.epoch, query.seq)
    found = await services().operations.rooms.history(
        identity, room, since=since, limit=query.limit, org=query.org
    )
    return reply(
        {
            "room": room,
            "epoch": found.epoch,
            "seq": found.seq,
            "events": [event.describe() for event in found.events],
            "more": found.more,
            "complete": found.complete,
        }
    )


@blueprint.get("/rooms/<name:room>/presence")
@operation(tags="rooms", query=OrganisationQuery, answer=Presence)
async def get_presence(room: str) -> Response:
    """Get the users in a room."""
    identity = await caller()
    org = read_query(OrganisationQuery).org
    found = await services().operations.rooms.presence(identity, room, org=org)
    return reply({"room": room, **found})
