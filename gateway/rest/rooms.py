"""Rooms: which there are, what was said, who is there."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from gateway.broker.base import Since
from gateway.rest.http import caller, page, read_cursor, read_query, reply
from gateway.rest.models import OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.room_models import History, HistoryQuery, Presence, RoomPage, RoomQuery
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["blueprint"]

blueprint = Blueprint("rooms", __name__)


@blueprint.get("/rooms")
@operation(tags="rooms", query=RoomQuery, answer=RoomPage)
async def list_rooms() -> Response:
    """List the rooms that somebody is in, by name.

    Members see those whose presence they may see.
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
    """Read the kept events of a room, the oldest first.

    With `epoch` and `seq` those after that event, otherwise the newest. A page after the other: take
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
    """Tell who is in a room."""
    identity = await caller()
    org = read_query(OrganisationQuery).org
    found = await services().operations.rooms.presence(identity, room, org=org)
    return reply({"room": room, **found})
