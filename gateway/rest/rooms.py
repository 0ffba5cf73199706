"""Rooms: which there are, what was said, who is there."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from gateway.auth.identity import Permission
from gateway.broker.base import Since
from gateway.hub.presence import describe_members
from gateway.rest.http import (
    MAX_PAGE,
    caller,
    organisation,
    page,
    read_cursor,
    read_query,
    reply,
    require_permission,
)
from gateway.rest.models import History, HistoryQuery, OrganisationQuery, Presence, RoomPage, RoomQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_room

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
    org = organisation(identity, query.org)
    after = read_cursor(query.cursor, str)
    wanted = query.limit + 1
    found: list[dict[str, Any]] = []
    missing: set[str] = set()
    while len(found) < wanted:
        # Whoever may see only some of the rooms may have to look at many.
        run = wanted if identity.is_service else MAX_PAGE
        rooms, silent = await services().cluster.rooms(org, after=after, limit=run)
        found += [
            room
            for room in rooms
            if identity.is_service or identity.grants.allows(room["room"], Permission.PRESENCE)
        ]
        missing.update(silent)
        if len(rooms) < run:
            break
        after = rooms[-1]["room"]
    found, cursor = page(found, key=lambda room: str(room["room"]), limit=query.limit)
    answer: dict[str, Any] = {"rooms": found}
    if cursor is not None:
        answer["next"] = cursor
    if missing:
        answer["missing"] = sorted(missing)
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
    org = organisation(identity, query.org)
    check_room(room)
    require_permission(identity, room, Permission.HISTORY)
    largest = services().settings.history.page
    limit = largest if query.limit is None else min(query.limit, largest)
    if (query.epoch is None) != (query.seq is None):
        raise ProtocolError(ErrorCode.MISSING_FIELD, "epoch and seq go together")
    since = None if query.epoch is None or query.seq is None else Since(query.epoch, query.seq)
    found = await services().hub.history(org, room, since=since, limit=limit, reader=identity.user)
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
    org = organisation(identity, read_query(OrganisationQuery).org)
    check_room(room)
    require_permission(identity, room, Permission.PRESENCE)
    members = await services().hub.presence.members(org, room)
    return reply({"room": room, **describe_members(members)})
