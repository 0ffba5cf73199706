"""Notifications: created by services, listed, read and deleted by their users."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from gateway.rest.http import caller, named, read_body, read_query, reply
from gateway.rest.models import OrganisationQuery
from gateway.rest.notification_models import (
    NotificationCreated,
    NotificationCreation,
    NotificationOwner,
    NotificationPage,
    NotificationQuery,
    Unread,
)
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["blueprint"]

blueprint = Blueprint("notifications", __name__)


@blueprint.post("/notifications")
@operation(
    tags="notifications",
    body=NotificationCreation,
    query=OrganisationQuery,
    answer=NotificationCreated,
    status=201,
    errors=[404],
)
async def create_notification() -> Response:
    """Create a notification for one user or for many (role service or admin).

    The answer means that it is stored; the users' connections get `notification:new`. The same `mid` in the
    organisation gets the first answer.
    """
    identity = await caller()
    wanted = await read_body(NotificationCreation)
    if wanted.user is None and wanted.users is None:
        raise ProtocolError(ErrorCode.MISSING_FIELD, "user or users: one of them must be given")
    if wanted.user is not None and wanted.users is not None:
        raise ProtocolError(ErrorCode.BAD_FIELD, "user and users: only one of them may be given")
    created = await services().operations.notifications.create(
        identity,
        [wanted.user] if wanted.user is not None else wanted.users or [],
        type=wanted.type,
        title=wanted.title,
        message=wanted.message,
        data=wanted.data,
        action=None if wanted.action is None else msgspec.to_builtins(wanted.action),
        expires_at=wanted.expires_at,
        mid=wanted.mid,
        org=named(wanted.org, read_query(OrganisationQuery).org),
    )
    if wanted.user is not None:
        return reply(NotificationCreated(id=str(created.ids[wanted.user])), 201)
    return reply(NotificationCreated(ids={user: str(id) for user, id in created.ids.items()}), 201)


@blueprint.get("/notifications")
@operation(tags="notifications", query=NotificationQuery, answer=NotificationPage, errors=[404])
async def list_notifications() -> Response:
    """List the user's own notifications, newest first; a service or admin may name a user."""
    identity = await caller()
    query = read_query(NotificationQuery)
    return reply(
        await services().operations.notifications.list(
            identity,
            user=query.user,
            unread=query.unread,
            type=query.type,
            limit=query.limit,
            cursor=query.cursor,
            org=query.org,
        )
    )


@blueprint.post("/notifications/<id>/read")
@operation(tags="notifications", query=NotificationOwner, answer=Unread, errors=[404])
async def read_notification(id: str) -> Response:
    """Mark one as read; the user's connections get `notification:read`."""
    identity = await caller()
    query = read_query(NotificationOwner)
    return reply(
        Unread(await services().operations.notifications.read(identity, id, user=query.user, org=query.org))
    )


@blueprint.post("/notifications/read-all")
@operation(tags="notifications", query=NotificationOwner, answer=Unread, errors=[404])
async def read_all_notifications() -> Response:
    """Mark all present ones as read; the user's connections get `notification:read` once."""
    identity = await caller()
    query = read_query(NotificationOwner)
    return reply(
        Unread(await services().operations.notifications.read_all(identity, user=query.user, org=query.org))
    )


@blueprint.delete("/notifications/<id>")
@operation(tags="notifications", query=NotificationOwner, answer=Unread, errors=[404])
async def delete_notification(id: str) -> Response:
    """Delete one; the user's connections get `notification:deleted`."""
    identity = await caller()
    query = read_query(NotificationOwner)
    return reply(
        Unread(await services().operations.notifications.delete(identity, id, user=query.user, org=query.org))
    )
